"""Pictures → the squares of normalised pixels that vision networks take, with Pillow alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmbind_cli.nn.frame import Frame

if TYPE_CHECKING:
    from PIL.Image import Image

FITS = ("crop", "pad", "stretch", "corner")
"""How a picture becomes a square.

``crop``: the short side is scaled to the square's, and the middle is taken (CLIP's processor).
``pad``: the mean colour fills the picture up to a square on both sides (LLaVA-1.5).
``stretch``: both sides are scaled, each by itself (SigLIP).
``corner``: the long side is scaled, and zeros fill up the right and the bottom (Segment Anything).
"""

_LONGEST_CROPPED = 16
"""Up to this many times the side, a picture is scaled as a whole before it is cropped."""

_LONGEST_PADDED_PX = 4096
"""A longer picture is scaled down before it is padded: its square would not fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pictures are made ready for one network.

    Attributes:
        side_px: Side of the square.
        fit: One of :data:`FITS`.
        mean: Of red, green and blue, on the scale of 0 to 1.
        deviation: Likewise.
        bicubic: Scale with bicubic weights instead of bilinear ones; both antialiased.
    """

    side_px: int
    fit: str
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bicubic: bool = True

    def __post_init__(self) -> None:
        if self.side_px < 1:
            raise ValueError(f"side_px must be ≥ 1, got {self.side_px}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def __call__(self, picture: Image) -> Tensor:
        """Make a picture ready.

        Args:
            picture: Mode ``RGB``, in the frame the viewer sees.

        Returns:
            Float32, [3, side_px, side_px].
        """
        fitted = {"crop": self._crop, "pad": self._pad, "stretch": self._stretch}.get(self.fit)
        levels = np.asarray((fitted or self._corner)(picture), np.float32)  # [h, w, 3]
        mean, deviation = np.array([self.mean, self.deviation], np.float32)
        values = (levels / np.float32(255) - mean) / deviation
        square = np.zeros((self.side_px, self.side_px, 3), np.float32)
        square[: values.shape[0], : values.shape[1]] = values
        return torch.from_numpy(square).permute(2, 0, 1)

    def frame(self, picture: Image) -> Frame:
        """Return where a picture lies within the square; of ``corner`` alone."""
        width, height = picture.size
        return Frame(width=width, height=height, side_px=self.side_px)

    def _scaled(
        self,
        picture: Image,
        size: tuple[int, int],
        box: tuple[float, float, float, float] | None = None,
    ) -> Image:
        from PIL.Image import Resampling

        filter_ = Resampling.BICUBIC if self.bicubic else Resampling.BILINEAR
        return picture.resize(size, filter_, box=box)

    def _stretch(self, picture: Image) -> Image:
        return self._scaled(picture, (self.side_px, self.side_px))

    def _corner(self, picture: Image) -> Image:
        return self._scaled(picture, self.frame(picture).content)

    def _crop(self, picture: Image) -> Image:
        side, short = self.side_px, min(picture.size)
        sizes = [side if n == short else int(side * n / short) for n in picture.size]
        starts = [(scaled - side) // 2 for scaled in sizes]
        if max(sizes) <= _LONGEST_CROPPED * side:
            x, y = starts
            scaled_picture = self._scaled(picture, (sizes[0], sizes[1]))
            return scaled_picture.crop((x, y, x + side, y + side))
        # The strip that is left over would be huge: only what is kept of it is scaled.
        units = [length / scaled for length, scaled in zip(picture.size, sizes, strict=True)]
        left, top = (start * unit for start, unit in zip(starts, units, strict=True))
        right, bottom = left + side * units[0], top + side * units[1]
        return self._scaled(picture, (side, side), (left, top, right, bottom))

    def _pad(self, picture: Image) -> Image:
        from PIL import Image

        longest = max(picture.size)
        if longest > _LONGEST_PADDED_PX:
            scale = _LONGEST_PADDED_PX / longest
            width, height = (max(1, round(length * scale)) for length in picture.size)
            picture, longest = self._scaled(picture, (width, height)), max(width, height)
        colour = tuple(int(value * 255) for value in self.mean)
        square = Image.new("RGB", (longest, longest), colour)
        width, height = picture.size
        square.paste(picture, ((longest - width) // 2, (longest - height) // 2))
        return self._scaled(square, (self.side_px, self.side_px))
