"""Peak signal-to-noise ratio of two pictures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def psnr(prediction: Any, reference: Any, *, data_range: float = 255.0) -> float:
    """Give 10 · log₁₀(data_range² / mean squared error) of one pair.

    Args:
        prediction: Values of any shape, such as uint8 [H, W, 3].
        reference: Of the same shape.
        data_range: Largest minus smallest value that a picture may have.

    Returns:
        In dB; infinity for equal pictures.

    Raises:
        ValueError: The shapes differ or are empty, or ``data_range`` is not above 0.
    """
    made, true = np.asarray(prediction, np.float64), np.asarray(reference, np.float64)
    if made.shape != true.shape or not made.size:
        raise ValueError(f"pictures must have one size, got {made.shape} and {true.shape}")
    if not data_range > 0:
        raise ValueError(f"data_range must be > 0, got {data_range}")
    error = float(np.square(made - true).mean())
    return 10 * math.log10(data_range**2 / error) if error else math.inf
