"""Percentile bootstrap (Efron and Tibshirani, 1993, ch. 13): how far a figure may be off.

Items are drawn with replacement, as many as there are, and the figure is taken anew. The interval
covers the chance of which items were scored, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

RESAMPLES = 1000
LEVEL = 0.95
_VALUES_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """Bounds of a figure.

    Attributes:
        low: Lower bound.
        high: Upper bound.
    """

    low: float
    high: float


def bootstrap_interval(
    numerators: Any,
    denominators: Any | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int,
) -> Interval:
    """Bound a mean, or a quotient of two sums.

    Args:
        numerators: A figure of each item, [n].
        denominators: What the sum is divided by, [n], each at least 0, such as the unions of
            cIoU; ones if not given, which makes the figure a mean. Draws whose sum is 0 count 1,
            as :mod:`llmbind_cli.metrics.iou` has it.
        level: Share of draws between the bounds, in (0, 1).
        resamples: How many times items are drawn.
        seed: Of the draws. The interval depends on it and on the order of the items.

    Raises:
        ValueError: There is no item, shapes differ, or a setting is out of range.
    """
    tops = np.asarray(numerators, dtype=np.float64)
    bottoms = np.ones_like(tops) if denominators is None else np.asarray(denominators, np.float64)
    return _interval([(tops, bottoms, 1)], level, resamples, seed)


def paired_bootstrap_interval(
    before: tuple[Any, Any],
    after: tuple[Any, Any],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int,
) -> Interval:
    """Bound the difference of two quotients of sums over the same items, after minus before.

    Each draw takes the same items of both, so what makes an item hard or easy for both falls out.

    Args:
        before: Numerators and denominators, [n] each, as in :func:`bootstrap_interval`.
        after: Those of the same items in the same order.
        level: Share of draws between the bounds, in (0, 1).
        resamples: How many times items are drawn.
        seed: Of the draws.

    Raises:
        ValueError: There is no item, shapes differ, or a setting is out of range.
    """
    sides = [
        (np.asarray(top, np.float64), np.asarray(bottom, np.float64), sign)
        for (top, bottom), sign in ((before, -1), (after, 1))
    ]
    return _interval(sides, level, resamples, seed)


def _interval(
    sides: Sequence[tuple[Array, Array, int]], level: float, resamples: int, seed: int
) -> Interval:
    """Bound the sum of sign · Σ tops / Σ bottoms over the sides, drawing the same items of all."""
    n = len(sides[0][0]) if sides[0][0].ndim else 0
    shapes = [array.shape for top, bottom, _ in sides for array in (top, bottom)]
    if not n or set(shapes) != {(n,)}:
        raise ValueError(f"figures must be [n], n ≥ 1, got {' and '.join(map(str, shapes))}")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must be in (0, 1), resamples ≥ 1, got {level}, {resamples}")
    generator = np.random.default_rng(seed)
    figures: list[float] = []
    while len(figures) < resamples:
        rows = min(resamples - len(figures), max(1, _VALUES_AT_ONCE // n))
        drawn = generator.integers(0, n, size=(rows, n))
        total = np.zeros(rows)
        for tops, bottoms, sign in sides:
            top, bottom = tops[drawn].sum(axis=1), bottoms[drawn].sum(axis=1)
            total += sign * np.divide(top, bottom, out=np.ones(rows), where=bottom > 0)
        figures += total.tolist()
    tail = (1 - level) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))
