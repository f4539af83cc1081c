"""LPIPS (arXiv 1801.03924): distance of two pictures by the layers of a classifier.

Version 0.1 of its authors' code (https://github.com/richzhang/PerceptualSimilarity): layers of
AlexNet or VGG-16 after ReLU, of length 1 over their channels; squared differences, weighted per
channel, summed over channels, averaged over places, summed over layers. The channel weights come
from the package ``lpips`` 0.1.4 (BSD-2-Clause); the classifier's weights are torchvision's.

Notation: B pairs, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.errors import IntegrityError
from llmbind_cli.metrics.extractors.extractor import Array
from llmbind_cli.metrics.extractors.published import LocatedWeights, read_tensors
from llmbind_cli.weights import cache
from llmbind_cli.weights.hashes import directory_digest
from llmbind_cli.weights.tensors import check_tensors

HEADS = {
    "alexnet": (
        "pypi:lpips==0.1.4#lpips/weights/v0.1/alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
    "vgg16": (
        "pypi:lpips==0.1.4#lpips/weights/v0.1/vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
}
"""Classifier → source and hash of the channel weights."""

LEAST_SIDE_PX = 32
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10

# (index in ``features``, kernel, stride, padding) of the convolutions, and how the side is pooled
# before them: kernel and stride. What is compared is the output of those marked with True.
_LAYERS: Mapping[str, Sequence[tuple[int, int, int, int, tuple[int, int] | None, bool]]] = {
    "alexnet": (
        (0, 11, 4, 2, None, True),
        (3, 5, 1, 2, (3, 2), True),
        (6, 3, 1, 1, (3, 2), True),
        (8, 3, 1, 1, None, True),
        (10, 3, 1, 1, None, True),
    ),
    "vgg16": (
        (0, 3, 1, 1, None, False),
        (2, 3, 1, 1, None, True),
        (5, 3, 1, 1, (2, 2), False),
        (7, 3, 1, 1, None, True),
        (10, 3, 1, 1, (2, 2), False),
        (12, 3, 1, 1, None, False),
        (14, 3, 1, 1, None, True),
        (17, 3, 1, 1, (2, 2), False),
        (19, 3, 1, 1, None, False),
        (21, 3, 1, 1, None, True),
        (24, 3, 1, 1, (2, 2), False),
        (26, 3, 1, 1, None, False),
        (28, 3, 1, 1, None, True),
    ),
}


class Lpips(nn.Module):
    """The distance.

    Args:
        family: ``alexnet`` or ``vgg16``.
        widths: Channels out of each convolution, in their order.
    """

    def __init__(self, *, family: str, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = _LAYERS[family]
        self.features, self.heads = nn.ModuleDict(), nn.ParameterDict()
        channels, compared = 3, 0
        for (index, kernel, stride, padding, _, is_compared), width in zip(
            self.layers, widths, strict=True
        ):
            self.features[str(index)] = nn.Conv2d(channels, width, kernel, stride, padding)
            channels = width
            if is_compared:
                self.heads[str(compared)] = nn.Parameter(torch.empty(1, width, 1, 1))
                compared += 1

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare pictures.

        Args:
            first: [B, 3, H, W], sRGB, −1 to 1; sides of at least 32 px.
            second: Likewise.

        Returns:
            [B]; 0 for equal pictures, less is more alike.
        """
        sides = zip(self._maps(first), self._maps(second), self.heads.values(), strict=True)
        total = torch.zeros(len(first), device=first.device)
        for a, b, head in sides:
            # arXiv 1801.03924, Eq. (1)
            total = total + ((a - b).square() * head).sum(dim=1).mean(dim=(1, 2))
        return total

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        shift, scale = (pictures.new_tensor(v).view(1, 3, 1, 1) for v in (_SHIFT, _SCALE))
        hidden_states, maps = (pictures - shift) / scale, []
        for index, _, _, _, pool, is_compared in self.layers:
            if pool is not None:
                hidden_states = functional.max_pool2d(hidden_states, *pool)
            hidden_states = functional.relu(self.features[str(index)](hidden_states))
            if is_compared:
                length = hidden_states.square().sum(dim=1, keepdim=True).sqrt()
                maps.append(hidden_states / (length + _EPSILON))
        return maps


class LpipsJudge:
    """LPIPS with its weights, for pairs of files.

    Args:
        weights: Of torchvision's checkpoint of AlexNet or VGG-16; its classifier may be left out.
        device: Where it runs.
        offline: Never fetch the channel weights.

    Attributes:
        card: What a protocol card says of both.

    Raises:
        ModelNotFoundError: The channel weights are missing.
        IntegrityError: Weights are missing, of another shape, or not finite.
    """

    preprocessing = (
        "8-bit sRGB, first frame, EXIF applied, transparency on white; never resized; −1 to 1"
    )

    def __init__(self, weights: LocatedWeights, *, device: torch.device, offline: bool) -> None:
        family = weights.name
        source, pin = HEADS[family]
        heads = LocatedWeights(
            name="lpips",
            folder=cache.resolve(source, sha256=pin, offline=offline),
            source=source,
            sha256=pin,
        )
        self.device, self.weights = device, weights
        self.network = _network(family, weights, heads).to(device).eval()
        both = {"classifier": weights.sha256, "channels": heads.sha256}
        self.card = {
            "name": f"lpips-{family}",
            "source": f"{weights.source} and {source}",
            "sha256": directory_digest(both),
        }

    def distance(self, first: Array, second: Array) -> float:
        """Compare two pictures: uint8, [H, W, 3], of one size.

        Raises:
            ValueError: A side is shorter than 32 px.
        """
        if min(first.shape[:2]) < LEAST_SIDE_PX:
            raise ValueError(f"LPIPS needs sides of {LEAST_SIDE_PX} px, got {first.shape[:2]}")
        batches = (
            torch.from_numpy(side.copy()).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1
            for side in (first, second)
        )
        with torch.inference_mode():
            return float(self.network(*batches))


def _network(family: str, weights: LocatedWeights, heads: LocatedWeights) -> Lpips:
    path, tensors = read_tensors(weights)
    kept = {key: value for key, value in tensors.items() if key.startswith("features.")}
    sizes = [len(kept.get(f"features.{layer[0]}.bias", ())) for layer in _LAYERS[family]]
    network = Lpips(family=family, widths=sizes)
    state: dict[str, Any] = network.state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    expected = {key: shape for key, shape in shapes.items() if key.startswith("features.")}
    check_tensors(path, kept, expected)
    head_path, channels = read_tensors(heads)
    renamed = {f"heads.{k.removeprefix('lin').partition('.')[0]}": v for k, v in channels.items()}
    found = {key: shape for key, shape in shapes.items() if key.startswith("heads.")}
    if {key: tuple(value.shape) for key, value in renamed.items()} != found:
        raise IntegrityError(f"{weights.source}: has other widths than {head_path} has weights for")
    check_tensors(head_path, renamed, found)
    network.load_state_dict(kept | renamed)
    return network
