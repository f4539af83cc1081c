"""The latent space that the generator draws in: principal components of 8 × 8 pixel patches.

A picture of 64 px becomes 8 × 8 places of C numbers. Dividing each component by the root of its
standard deviation lets the large ones still count for more, without drowning the small ones.

Notation: B pictures, C channels of a latent.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional

from llmbind_cli.weights.atomic import write_atomically

PATCH_PX = 8
PICTURE_PX = 64
SIDE = PICTURE_PX // PATCH_PX
CHANNELS = 32


class PatchSpace:
    """Linear coordinates of patches.

    Args:
        mean: [192] mean patch, values from -1 to 1.
        axes: [C, 192] orthonormal principal axes.
        scale: [C] what each coordinate is divided by.
    """

    def __init__(self, *, mean: Tensor, axes: Tensor, scale: Tensor) -> None:
        if axes.shape != (len(scale), len(mean)):
            raise ValueError(f"axes must be [{len(scale)}, {len(mean)}], got {list(axes.shape)}")
        self.mean, self.axes, self.scale = mean, axes, scale

    @classmethod
    def fit(cls, images: NDArray[np.uint8], channels: int = CHANNELS) -> PatchSpace:
        """Find the axes of the pictures' patches.

        Args:
            images: [B, 64, 64, 3] sRGB.
            channels: How many axes are kept.
        """
        patches = _patches(images).double()
        mean = patches.mean(0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))
        # Rounding may leave the variance of an empty direction a little below 0.
        deviation = values.flip(0)[:channels].clamp(min=0).sqrt()
        axes = vectors.flip(1).T[:channels]
        # After division by the root of the deviation the variance is the deviation; divided by
        # its mean, all latents together have a variance of 1.
        spread = deviation.mean()
        return cls(
            mean=mean.float(),
            axes=axes.float().contiguous(),
            scale=(deviation.sqrt() * spread.sqrt()).float(),
        )

    def encode(self, images: NDArray[np.uint8]) -> Tensor:
        """Return the latents of pictures: [B, 64, 64, 3] → [B, C, 8, 8]."""
        flat = (_patches(images) - self.mean) @ self.axes.T / self.scale
        return flat.view(len(images), SIDE, SIDE, -1).permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return the pictures that latents stand for, [B, 64, 64, 3]; patches meet in seams."""
        flat = latents.permute(0, 2, 3, 1).flatten(0, 2) * self.scale @ self.axes + self.mean
        patches = flat.view(-1, SIDE * SIDE, flat.shape[1]).transpose(1, 2)
        images = functional.fold(patches, (PICTURE_PX, PICTURE_PX), PATCH_PX, stride=PATCH_PX)
        levels = ((images.clamp(-1, 1) + 1) * 127.5).round()
        return levels.permute(0, 2, 3, 1).to(torch.uint8).numpy()

    def save(self, path: Path) -> None:
        """Write the space as safetensors."""
        tensors = {"mean": self.mean, "axes": self.axes, "scale": self.scale}
        write_atomically(path, lambda file: file.write(save(tensors)))

    @classmethod
    def load(cls, path: Path) -> PatchSpace:
        """Read what `save` wrote."""
        return cls(**load_file(path))


def _patches(images: NDArray[np.uint8]) -> Tensor:
    """Cut pictures into patches: [B, 64, 64, 3] → [B·64, 192], -1 to 1, row by row."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.unfold(pixels, PATCH_PX, stride=PATCH_PX).transpose(1, 2).flatten(0, 1)
