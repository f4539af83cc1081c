"""Structural similarity of two pictures (Wang et al., IEEE TIP 2004), with torchmetrics' settings.

A Gaussian window of 11 × 11 pixels with σ = 1.5, K₁ = 0.01, K₂ = 0.03, around every pixel; the
picture is mirrored at its borders (torchmetrics 1.9), where scikit-image leaves the borders out.
The index is the mean over the pixels and the channels.

Notation: H × W pixels, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

WINDOW_PX = 11
_REACH_PX = WINDOW_PX // 2
SMALLEST_PX = _REACH_PX + 1
"""Smallest side of a picture that can be mirrored as far as the window reaches."""
_SIGMA_PX = 1.5
_K1, _K2 = 0.01, 0.03


def ssim(prediction: Any, reference: Any, *, data_range: float = 255.0) -> float:
    """Give the mean structural similarity of one pair.

    Args:
        prediction: [H, W, C] or [H, W], such as uint8 with values up to ``data_range``.
        reference: Of the same shape.
        data_range: Largest minus smallest value that a picture may have.

    Returns:
        At most 1, which equal pictures have.

    Raises:
        ValueError: The shapes differ, a side is below 6 pixels, or ``data_range`` is not above 0.
    """
    made, true = np.asarray(prediction, np.float64), np.asarray(reference, np.float64)
    if made.shape != true.shape or made.ndim not in (2, 3):
        raise ValueError(f"pictures must have one size, got {made.shape} and {true.shape}")
    if min(made.shape[:2]) < SMALLEST_PX:
        raise ValueError(f"SSIM needs sides of at least {SMALLEST_PX} px, got {made.shape[:2]}")
    if not data_range > 0:
        raise ValueError(f"data_range must be > 0, got {data_range}")
    x, y = _channels(made), _channels(true)
    products = torch.cat([x, y, x * x, y * y, x * y])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _windowed(products).chunk(5)
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    variance_x, variance_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    covariance = mean_xy - mean_x * mean_y
    # Wang et al., Eq. (13)
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return float(index.mean())


def _channels(picture: np.ndarray[Any, Any]) -> Tensor:
    """[H, W(, C)] → [C, 1, H, W]."""
    shaped = picture if picture.ndim == 3 else picture[..., None]
    return torch.from_numpy(np.ascontiguousarray(shaped.transpose(2, 0, 1)))[:, None]


def _windowed(values: Tensor) -> Tensor:
    """Gaussian means around each pixel: [N, 1, H, W] → [N, 1, H, W]."""
    places = torch.arange(WINDOW_PX, dtype=values.dtype) - _REACH_PX
    weights = torch.exp(-((places / _SIGMA_PX) ** 2) / 2)
    weights = weights / weights.sum()
    values = functional.pad(values, (_REACH_PX,) * 4, mode="reflect")
    values = functional.conv2d(values, weights.view(1, 1, -1, 1))
    return functional.conv2d(values, weights.view(1, 1, 1, -1))
