"""Overlap of masks: cIoU and gIoU, as LISA (arXiv 2308.00692) and the refCOCO papers report them.

cIoU is the sum of all intersections over the sum of all unions, gIoU the mean of the overlaps of
the single expressions (dvlab-research/LISA 3cb2d43, ``train_ds.py``).

Notation: P the pixels of a prediction, T those of its target, I = |P ∩ T|, U = |P ∪ T|.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

IGNORED = 255
"""Label of target pixels that are left out."""

Compat = Literal["lisa"]
"""Whose digits to give instead of exact quotients."""

LISA_SUM = 1e-10
"""What LISA's code adds to the sum of all unions."""

_LISA_PAIR = 1e-5

Mask = Any
"""[H, W], or its pixels in a row: numpy or torch, bools, or numbers that are 0 or a label."""


class IouResult(NamedTuple):
    """Overlap of many masks.

    Attributes:
        ciou: ΣI / ΣU, in [0, 1]; 1 where every target and every prediction is empty.
        giou: Mean of I / U, where an empty prediction of an empty target counts 1.
        n: Number of masks.
    """

    ciou: float
    giou: float
    n: int


class PairCounts(NamedTuple):
    """Pixels of one prediction and its target.

    Attributes:
        intersection: I.
        union: U.
    """

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """I / U; 1 where both are empty."""
        return self.intersection / self.union if self.union else 1.0


def ciou_giou(pairs: Iterable[tuple[Mask, Mask]]) -> IouResult:
    """Score predicted masks.

    Args:
        pairs: Prediction and target of each expression, both [H, W]. A prediction covers the
            pixels that are not 0. A target covers those that are neither 0 nor 255; pixels with
            255 are left out of both.

    Returns:
        Both scores. Deviation: LISA adds 1e-5 to each union and 1e-10 to their sum, which moves
        its scores by less than 1e-4; here the quotients are exact.

    Raises:
        ValueError: There is no pair, two sizes differ, or numbers with a fraction were given, as
            scores are that have not been cut at a threshold.
    """
    return combine(pair_counts(prediction, target) for prediction, target in pairs)


def combine(counts: Iterable[PairCounts], *, compat: Compat | None = None) -> IouResult:
    """Turn the pixel counts of all expressions into both scores.

    Args:
        counts: Of each expression.
        compat: ``lisa`` adds what LISA's code adds to the unions; its cIoU of empty masks alone
            is 0.

    Raises:
        ValueError: There is none.
    """
    listed = list(counts)
    if not listed:
        raise ValueError("there is no mask to score")
    intersection = sum(pair.intersection for pair in listed)
    union = sum(pair.union for pair in listed)
    if compat == "lisa":
        ciou = intersection / (union + LISA_SUM)
    else:
        ciou = intersection / union if union else 1.0
    ious = [overlap(pair, compat=compat) for pair in listed]
    return IouResult(ciou=ciou, giou=sum(ious) / len(listed), n=len(listed))


def overlap(pair: PairCounts, *, compat: Compat | None = None) -> float:
    """Give I / U of one expression, 1 where both masks are empty; see :func:`combine`."""
    if compat == "lisa":
        # dvlab-research/LISA 3cb2d43, train_ds.py, validate
        return pair.intersection / (pair.union + _LISA_PAIR) + (pair.union == 0)
    return pair.iou


def pair_counts(prediction: Mask, target: Mask) -> PairCounts:
    """Count the pixels that one prediction and its target share and cover.

    Args:
        prediction: [H, W], see :func:`ciou_giou`.
        target: [H, W].

    Raises:
        ValueError: The sizes differ, or the numbers are no labels.
    """
    predicted, labels = _labels(prediction, "prediction"), _labels(target, "target")
    if predicted.shape != labels.shape:
        raise ValueError(
            f"prediction and target must have one size, got {predicted.shape} and {labels.shape}"
        )
    covered = predicted if predicted.dtype == np.bool_ else predicted != 0
    if labels.dtype == np.bool_:
        truth = labels
    else:
        truth = labels != 0
        ignored = labels == IGNORED
        if ignored.any():
            truth &= ~ignored
            covered = covered & ~ignored
    intersection = np.count_nonzero(covered & truth)
    union = np.count_nonzero(covered) + np.count_nonzero(truth) - intersection
    return PairCounts(intersection=int(intersection), union=int(union))


def _labels(mask: Mask, name: str) -> np.ndarray[Any, Any]:
    array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    if array.ndim not in (1, 2):  # a batch would be counted as one mask
        raise ValueError(f"{name} must have the shape [H, W], got {array.shape}")
    if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise ValueError(f"{name} holds scores; a mask is score > threshold")
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold bools or labels, got {array.dtype}")
    return array
