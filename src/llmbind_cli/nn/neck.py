"""What a light encoder's map passes before it is attended to: channels are mixed, then refined.

Notation: ``G`` images, ``C`` channels of a map, ``P`` width afterwards, ``h × w`` places.
"""

from __future__ import annotations

from torch import Tensor, nn

_MLP_RATIO = 4


class Lateral(nn.Module):
    """Normalise the channels at each place, then mix them to another width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(channels, width)

    def forward(self, feature_map: Tensor) -> Tensor:
        """[G, C, h, w] → [G, width, h, w]."""
        mixed: Tensor = self.mix(self.norm(feature_map.movedim(1, -1)))
        return mixed.movedim(-1, 1)


class NeckBlock(nn.Module):
    """Look at the neighbours channel by channel, then mix the channels; added to the input.

    A residual block of ConvNeXt (arXiv 2201.03545, figure 4) with windows of 5 × 5.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.neighbours = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width), nn.GELU(), nn.Linear(_MLP_RATIO * width, width)
        )

    def forward(self, image: Tensor) -> Tensor:
        """[G, P, h, w] → the same shape."""
        mixed: Tensor = self.mlp(self.norm(self.neighbours(image).movedim(1, -1)))
        return image + mixed.movedim(-1, 1)
