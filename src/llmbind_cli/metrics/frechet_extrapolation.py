"""Fréchet distance at infinitely many samples (Chong and Forsyth, arXiv 1911.07023, section 3).

The distance is biased by an amount that goes with 1 / N. It is taken at 15 sizes N of random
subsets of the predictions, evenly spaced, each without replacement; a line through the distances
over 1 / N is followed to 1 / N = 0. The references stay as they are, so their bias stays too.

Deviation: the paper takes N from 5,000 on. Where there are fewer than 20,000 predictions, it goes
from a quarter of them on, and who reads the figure must be told.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from llmbind_cli.metrics.frechet import frechet_distance

POINTS = 15
SMALLEST = 5000
LEAST_SAMPLES = 100


class Extrapolation(NamedTuple):
    """A line through distances.

    Attributes:
        value: The distance at 1 / N = 0; may be below 0 where the true one is near 0.
        slope: Of the line over 1 / N, the strength of the bias.
        sizes: N of each subset.
        distances: Of each subset.
    """

    value: float
    slope: float
    sizes: list[int]
    distances: list[float]


def subset_sizes(n: int, *, points: int = POINTS, smallest: int = SMALLEST) -> list[int]:
    """Give the sizes of the subsets, evenly spaced up to all of them.

    Args:
        n: Samples, at least :data:`LEAST_SAMPLES`.
        points: How many sizes, at least 2.
        smallest: First size; a quarter of ``n`` where that is less.

    Raises:
        ValueError: A number is out of range.
    """
    if n < LEAST_SAMPLES or points < 2 or smallest < 2:
        raise ValueError(
            f"extrapolation needs n ≥ {LEAST_SAMPLES}, points ≥ 2 and smallest ≥ 2, got {n}, "
            f"{points} and {smallest}"
        )
    return [int(size) for size in np.linspace(min(smallest, n // 4), n, points).round()]


def extrapolated_frechet_distance(
    features: Any,
    mean: Any,
    covariance: Any,
    *,
    points: int = POINTS,
    smallest: int = SMALLEST,
    seed: int,
) -> Extrapolation:
    """Give the distance of infinitely many such samples from a normal distribution.

    Args:
        features: Of the predictions, [n, D], numpy or torch on the CPU, taken as float64.
        mean: Of the references, [D].
        covariance: Of the references, [D, D].
        points: How many subsets.
        smallest: Size of the first one, see :func:`subset_sizes`.
        seed: Of the subsets.

    Raises:
        ValueError: Shapes do not fit, a value is not finite, or there are too few samples.
    """
    samples = np.asarray(features, dtype=np.float64)
    if samples.ndim != 2:
        raise ValueError(f"features must be [n, D], got {samples.shape}")
    sizes = subset_sizes(len(samples), points=points, smallest=smallest)
    draws = np.random.default_rng(seed)
    distances = []
    for size in sizes:
        subset = samples[draws.permutation(len(samples))[:size]]
        distances.append(
            frechet_distance(mean, covariance, subset.mean(axis=0), np.cov(subset, rowvar=False))
        )
    # arXiv 1911.07023, Eq. (7): FID_N = FID_∞ + k / N, by least squares
    slope, value = np.polyfit(1 / np.array(sizes), distances, deg=1)
    return Extrapolation(value=float(value), slope=float(slope), sizes=sizes, distances=distances)
