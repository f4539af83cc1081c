"""Cosines of unit vectors in which two kinds of media compare: CLIP score, CLIPSIM, directions."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_SHORTEST = 1e-8
"""Below it a difference of unit vectors has no direction but that of rounding."""


def cosines(first: Any, second: Any) -> Array:
    """Give the cosine of each pair of vectors.

    Args:
        first: [n, D], of any length above 0.
        second: [n, D].

    Returns:
        float64, −1 to 1, [n]. A CLIP score or CLIPSIM is their mean; torchmetrics multiplies by 100
        and cuts off at 0.

    Raises:
        ValueError: Shapes differ, or a vector is 0 or not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"vectors must be [n, D] twice, got {a.shape} and {b.shape}")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError("vectors hold NaN or infinity, or are 0")
    products: Array = (a * b).sum(axis=1) / lengths
    return products.clip(-1.0, 1.0)


def direction_cosines(
    pictures_before: Any, pictures_after: Any, texts_before: Any, texts_after: Any
) -> Array:
    """Say for each edit whether the picture moved where the text moved (arXiv 2108.00946, Eq. 2).

    Args:
        pictures_before: Unit vectors of the originals, [n, D].
        pictures_after: Of the edits, [n, D].
        texts_before: Of the captions of the originals, [n, D].
        texts_after: Of the captions of the edits, [n, D].

    Returns:
        Cosine of the two differences, float64, −1 to 1, [n]; 0 where a picture or a text did not
        change, as there is no direction.

    Raises:
        ValueError: Shapes differ.
    """
    sides = [
        np.asarray(side, dtype=np.float64)
        for side in (pictures_before, pictures_after, texts_before, texts_after)
    ]
    if len({side.shape for side in sides}) != 1 or sides[0].ndim != 2:
        raise ValueError(f"vectors must be [n, D] four times, got {[s.shape for s in sides]}")
    shift, asked = sides[1] - sides[0], sides[3] - sides[2]
    lengths = np.linalg.norm(shift, axis=1), np.linalg.norm(asked, axis=1)
    moved = (lengths[0] > _SHORTEST) & (lengths[1] > _SHORTEST)
    products = np.zeros(len(shift))
    products[moved] = cosines(shift[moved], asked[moved])
    return products
