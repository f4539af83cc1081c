"""Kernel distance of two sets of features (KID, arXiv 1801.01401): an unbiased estimate of MMD².

Kernel, subsets and random numbers are those of torch-fidelity (``metric_kid.py``), so equal seeds
give equal figures.

Notation: D features, s samples in a subset, k(a, b) = (aᵀb / D + 1)³.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

SUBSETS = 100
SUBSET_SIZE = 1000
_SEEDS = 2**32
"""How many seeds NumPy's generator of that time knows."""


class KernelDistance(NamedTuple):
    """Kernel distance over random subsets.

    Attributes:
        mean: Of the subsets; below 0 now and then, as an unbiased estimate is.
        std: Standard deviation of the subsets, which says how far one of them may be off.
    """

    mean: float
    std: float


def kernel_distance(
    x: Any, y: Any, *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int
) -> KernelDistance:
    """Give the kernel distance of two sets of features.

    Args:
        x: [n, D], numpy or torch on the CPU, taken as float64.
        y: [m, D].
        subsets: How many subsets are drawn, without replacement within each.
        subset_size: s, between 2 and the smaller of n and m.
        seed: Of the subsets, modulo 2³².

    Raises:
        ValueError: Shapes do not fit, or there are too few samples.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"x and y must be [n, D] and [m, D], got {first.shape}, {second.shape}")
    smaller = min(len(first), len(second))
    if not 2 <= subset_size <= smaller:
        raise ValueError(f"subset_size must be between 2 and {smaller}, got {subset_size}")
    if subsets < 1:
        raise ValueError(f"subsets must be ≥ 1, got {subsets}")
    draws = np.random.RandomState(seed % _SEEDS)
    distances = [
        _mmd(
            first[draws.choice(len(first), subset_size, replace=False)],
            second[draws.choice(len(second), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(mean=float(np.mean(distances)), std=float(np.std(distances)))


def _mmd(x: Array, y: Array) -> float:
    """The unbiased estimate of MMD², arXiv 1801.01401, Eq. (4): [s, D] twice."""
    size = len(x)
    within = sum(
        kernel.sum() - np.trace(kernel) for kernel in (_polynomial(x, x), _polynomial(y, y))
    )
    across = _polynomial(x, y).sum()
    return float(within / (size * (size - 1)) - 2 * across / size**2)


def _polynomial(x: Array, y: Array) -> Array:
    kernel: Array = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel
