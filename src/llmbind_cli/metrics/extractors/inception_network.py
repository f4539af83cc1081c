"""Inception-v3 (arXiv 1512.00567) as TensorFlow's 2015 model has it, which FID is defined by.

It differs from the later published network: average pooling leaves the padding out, and the last
block pools by the maximum. Names of layers are those of the checkpoint ``pt_inception-2015-12-05``.
Each batch normalisation is folded into the convolution before it, which changes no result and saves
a CPU a pass over memory.

Notation: B pictures, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPSILON = 1e-3
"""Of the batch normalisations."""

Widths = Mapping[str, int]
"""Name of a convolution → its channels out."""


@dataclass(frozen=True)
class _Convolution:
    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


@dataclass(frozen=True)
class _Pool:
    kind: str  # "average" or "max"
    stride: int = 1


_Fork = tuple[_Convolution, _Convolution]
_Step = _Convolution | _Pool | _Fork
_Branches = tuple[tuple[_Step, ...], ...]


def _narrow(pool_channels: int) -> _Branches:
    """Blocks on 35 × 35 (Figure 5 of the paper, one branch with 5 × 5)."""
    c = _Convolution
    return (
        (c("branch1x1", 64),),
        (c("branch5x5_1", 48), c("branch5x5_2", 64, (5, 5))),
        (
            c("branch3x3dbl_1", 64),
            c("branch3x3dbl_2", 96, (3, 3)),
            c("branch3x3dbl_3", 96, (3, 3)),
        ),
        (_Pool("average"), c("branch_pool", pool_channels)),
    )


def _middle(channels: int) -> _Branches:
    """Blocks on 17 × 17 (Figure 6), with 7 × 7 in two factors."""
    c, row, column = _Convolution, (1, 7), (7, 1)
    return (
        (c("branch1x1", 192),),
        (
            c("branch7x7_1", channels),
            c("branch7x7_2", channels, row),
            c("branch7x7_3", 192, column),
        ),
        (
            c("branch7x7dbl_1", channels),
            c("branch7x7dbl_2", channels, column),
            c("branch7x7dbl_3", channels, row),
            c("branch7x7dbl_4", channels, column),
            c("branch7x7dbl_5", 192, row),
        ),
        (_Pool("average"), c("branch_pool", 192)),
    )


def _wide(pool: str) -> _Branches:
    """Blocks on 8 × 8 (Figure 7), whose branches fork."""
    c, row, column = _Convolution, (1, 3), (3, 1)
    return (
        (c("branch1x1", 320),),
        (
            c("branch3x3_1", 384),
            (c("branch3x3_2a", 384, row), c("branch3x3_2b", 384, column)),
        ),
        (
            c("branch3x3dbl_1", 448),
            c("branch3x3dbl_2", 384, (3, 3)),
            (c("branch3x3dbl_3a", 384, row), c("branch3x3dbl_3b", 384, column)),
        ),
        (_Pool(pool), c("branch_pool", 192)),
    )


_TO_17: _Branches = (
    (_Convolution("branch3x3", 384, (3, 3), 2),),
    (
        _Convolution("branch3x3dbl_1", 64),
        _Convolution("branch3x3dbl_2", 96, (3, 3)),
        _Convolution("branch3x3dbl_3", 96, (3, 3), 2),
    ),
    (_Pool("max", 2),),
)
_TO_8: _Branches = (
    (_Convolution("branch3x3_1", 192), _Convolution("branch3x3_2", 320, (3, 3), 2)),
    (
        _Convolution("branch7x7x3_1", 192),
        _Convolution("branch7x7x3_2", 192, (1, 7)),
        _Convolution("branch7x7x3_3", 192, (7, 1)),
        _Convolution("branch7x7x3_4", 192, (3, 3), 2),
    ),
    (_Pool("max", 2),),
)
_BLOCKS: tuple[tuple[str, _Branches], ...] = (
    ("Mixed_5b", _narrow(32)),
    ("Mixed_5c", _narrow(64)),
    ("Mixed_5d", _narrow(64)),
    ("Mixed_6a", _TO_17),
    ("Mixed_6b", _middle(128)),
    ("Mixed_6c", _middle(160)),
    ("Mixed_6d", _middle(160)),
    ("Mixed_6e", _middle(192)),
    ("Mixed_7a", _TO_8),
    ("Mixed_7b", _wide("average")),
    ("Mixed_7c", _wide("max")),
)
# Name, channels, kernel, stride, whether the border is padded, whether the side is halved after.
_STEM = (
    ("Conv2d_1a_3x3", 32, 3, 2, False, False),
    ("Conv2d_2a_3x3", 32, 3, 1, False, False),
    ("Conv2d_2b_3x3", 64, 3, 1, True, True),
    ("Conv2d_3b_1x1", 80, 1, 1, False, False),
    ("Conv2d_4a_3x3", 192, 3, 1, False, True),
)
CLASSES = 1008


def _convolutions() -> Iterator[tuple[str, int]]:
    yield from ((name, channels) for name, channels, *_ in _STEM)
    for block, branches in _BLOCKS:
        for branch in branches:
            for step in branch:
                for part in step if isinstance(step, tuple) else (step,):
                    if isinstance(part, _Convolution):
                        yield f"{block}.{part.name}", part.channels


WIDTHS: Widths = dict(_convolutions())
"""Of the published network; others of the same make have other numbers."""


class Convolution(nn.Module):
    """A convolution with a bias, then ReLU; the border is padded where it does not stride.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Its height and width.
        stride: 1 or 2.
        padded: Keeps the side, where the stride is 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: tuple[int, int],
        stride: int = 1,
        padded: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H', W']."""
        return functional.relu_(self.conv(hidden_states))


class Mixed(nn.Module):
    """Branches of convolutions on one input, their outputs side by side.

    Args:
        inputs: Channels in.
        branches: What each is made of.
        widths: Channels out of each convolution.
        name: Of the block, for ``widths``.

    Attributes:
        outputs: Channels out.
    """

    def __init__(self, inputs: int, branches: _Branches, *, widths: Widths, name: str) -> None:
        super().__init__()
        self.branches, self.outputs = branches, 0
        for branch in branches:
            channels = inputs
            for step in branch:
                if isinstance(step, _Pool):
                    continue
                parts = step if isinstance(step, tuple) else (step,)
                for part in parts:
                    outputs = widths[f"{name}.{part.name}"]
                    layer = Convolution(channels, outputs, kernel=part.kernel, stride=part.stride)
                    self.add_module(part.name, layer)
                channels = sum(widths[f"{name}.{part.name}"] for part in parts)
            self.outputs += channels

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H', W'], halved where the branches have a stride."""
        return torch.cat([self._run(branch, hidden_states) for branch in self.branches], dim=1)

    def _run(self, branch: tuple[_Step, ...], hidden_states: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, _Pool):
                hidden_states = _pooled(hidden_states, step)
            elif isinstance(step, tuple):
                sides = [self.get_submodule(part.name)(hidden_states) for part in step]
                hidden_states = torch.cat(sides, dim=1)
            else:
                hidden_states = self.get_submodule(step.name)(hidden_states)
        return hidden_states


class InceptionV3(nn.Module):
    """The network: pictures → pooled features and, without a bias, logits.

    Args:
        widths: Channels out of each convolution.
        classes: Of the classifier.
    """

    def __init__(self, *, widths: Widths = WIDTHS, classes: int = CLASSES) -> None:
        super().__init__()
        channels = 3
        for name, _, side, stride, padded, _ in _STEM:
            kernel = (side, side)
            layer = Convolution(channels, widths[name], kernel=kernel, stride=stride, padded=padded)
            self.add_module(name, layer)
            channels = widths[name]
        for name, branches in _BLOCKS:
            block = Mixed(channels, branches, widths=widths, name=name)
            self.add_module(name, block)
            channels = block.outputs
        self.fc = nn.Linear(channels, classes)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Describe pictures.

        Args:
            pictures: [B, 3, 299, 299], −1 to 1; other sides from 75 on work too.

        Returns:
            Mean of the last feature map (``pool3``), [B, D]; and its product with the classifier's
            weights, [B, classes], without the bias, as the first inception score had it.
        """
        hidden_states = pictures.contiguous(memory_format=torch.channels_last)
        for name, *_, halved in _STEM:
            hidden_states = self.get_submodule(name)(hidden_states)
            if halved:
                hidden_states = functional.max_pool2d(hidden_states, 3, 2)
        for name, _ in _BLOCKS:
            hidden_states = self.get_submodule(name)(hidden_states)
        features = hidden_states.mean(dim=(2, 3))
        return features, features @ self.fc.weight.T


def folded(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold each normalisation of a checkpoint into the convolution before it.

    Args:
        checkpoint: Keys as in ``pt_inception-2015-12-05``: ``NAME.conv.weight``,
            ``NAME.bn.weight``, ``.bias``, ``.running_mean``, ``.running_var``; ``fc.weight``,
            ``fc.bias``.

    Returns:
        State of an `InceptionV3`.

    Raises:
        KeyError: A key is missing.
    """
    state = {key: checkpoint[key] for key in ("fc.weight", "fc.bias")}
    for name in WIDTHS:
        spread = torch.sqrt(checkpoint[f"{name}.bn.running_var"].double() + _EPSILON)
        scale = checkpoint[f"{name}.bn.weight"].double() / spread
        weight = checkpoint[f"{name}.conv.weight"].double() * scale.view(-1, 1, 1, 1)
        shift = checkpoint[f"{name}.bn.running_mean"].double() * scale
        state[f"{name}.conv.weight"] = weight.float()
        state[f"{name}.conv.bias"] = (checkpoint[f"{name}.bn.bias"].double() - shift).float()
    return state


def checkpoint_shapes(
    *, widths: Widths = WIDTHS, classes: int = CLASSES
) -> dict[str, tuple[int, ...]]:
    """Give name → shape of what a checkpoint of such a network holds, unfolded."""
    with torch.device("meta"):
        state = InceptionV3(widths=widths, classes=classes).state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for key, tensor in state.items():
        name = key.removesuffix(".conv.bias")
        if name == key:
            shapes[key] = tuple(tensor.shape)
            continue
        norms = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"{name}.bn.{part}": tuple(tensor.shape) for part in norms}
    return shapes


def _pooled(hidden_states: Tensor, pool: _Pool) -> Tensor:
    padding = 1 if pool.stride == 1 else 0
    if pool.kind == "max":
        return functional.max_pool2d(hidden_states, 3, pool.stride, padding)
    return functional.avg_pool2d(hidden_states, 3, pool.stride, padding, count_include_pad=False)
