"""Resampling by a windowed sinc, as ``torchaudio.functional.resample`` does by default.

y[m] = s Σ_k x[k] sinc(t) cos²(π t / 2w), t = b (k / f − m / g), for |t| < w = 6, with f and g the
rates divided by their greatest common divisor, b = 0.99 min(f, g) and s = b / f (Smith, *Digital
Audio Resampling*, https://ccrma.stanford.edu/~jos/resample/).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WIDTH = 6
ROLL_OFF = 0.99
_BLOCK = 1 << 16


def resample(samples: Array, from_hz: int, to_hz: int) -> Array:
    """Bring a sound to another rate.

    Args:
        samples: [n].
        from_hz: Its rate, at least 1.
        to_hz: The rate it gets, at least 1.

    Returns:
        float32, [ceil(n · to_hz / from_hz)]; the samples themselves where the rates are equal.

    Raises:
        ValueError: A rate is below 1, or there is more than one dimension.
    """
    if from_hz < 1 or to_hz < 1 or samples.ndim != 1:
        raise ValueError(
            f"needs [n] samples and rates ≥ 1, got {samples.shape}, {from_hz} and {to_hz}"
        )
    if from_hz == to_hz:
        return samples.astype(np.float32)
    divisor = math.gcd(from_hz, to_hz)
    old, new = from_hz // divisor, to_hz // divisor
    kernels = _kernels(old, new)
    reach = kernels.shape[1] // 2
    length = math.ceil(len(samples) * new / old)
    padded = np.pad(samples.astype(np.float64), (reach, reach + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernels.shape[1])
    result = np.empty(length, dtype=np.float32)
    for start in range(0, length, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, length))
        # Window q of the padded sound begins at sample q - reach, so its middle is sample q.
        middles = numbers * old // new
        result[numbers] = np.einsum("nk,nk->n", windows[middles], kernels[numbers % new])
    return result


@lru_cache(maxsize=8)
def _kernels(old: int, new: int) -> Array:
    """Weights around the middle sample, for each phase: [new, 2 · reach + 1]."""
    cutoff = min(old, new) * ROLL_OFF
    reach = math.ceil(WIDTH * old / cutoff) + 1
    offsets = np.arange(-reach, reach + 1) / old
    # What is left of m / new after its middle sample, floor(m · old / new) / old, is taken off.
    phases = (np.arange(new) * old % new) / (new * old)
    time = ((offsets - phases[:, None]) * cutoff).clip(-WIDTH, WIDTH)
    window = np.cos(np.pi * time / (2 * WIDTH)) ** 2
    kernels: Array = np.sinc(time) * window * (cutoff / old)
    return kernels
