"""Scores of masks beside their targets: overlaps, precision at bounds, and those of each category.

Every fault of the inputs is collected and told at once; a set with a fault gets no score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation import processes
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.mask_files import prediction_of, target_of
from llmbind_cli.evaluation.mask_set import MaskItem, MaskSet
from llmbind_cli.evaluation.media_set import require_same_ids
from llmbind_cli.evaluation.metric_table import PRECISION_BOUNDS
from llmbind_cli.evaluation.scores import FamilyScores, Panel, Score, interval_of
from llmbind_cli.metrics.iou import (
    IGNORED,
    LISA_SUM,
    Compat,
    PairCounts,
    combine,
    overlap,
    pair_counts,
)

Array = np.ndarray[Any, Any]

_MASKS = (
    "the numbers of one-channel pictures, EXIF applied, or COCO's run lengths; 0 is background, "
    "every other number foreground, but for the ignored label of references"
)


_GROUND, _SHARED, _MISSED, _TOO_MUCH = (24, 24, 24), (60, 130, 246), (245, 158, 11), (220, 60, 50)


class _Counted(NamedTuple):
    """One pair: its counts, and the numbers that its reference has for foreground."""

    counts: PairCounts
    values: list[int]


def score_masks(
    predictions: MaskSet,
    references: MaskSet,
    *,
    ignore_label: int | None,
    compat: Compat | None,
    seed: int,
) -> FamilyScores:
    """Score predicted masks.

    Args:
        predictions: What was made; one without a mask counts as an empty mask.
        references: What is true.
        ignore_label: Number of the reference pixels that are left out; ``None``: none are.
        compat: ``lisa`` gives LISA's digits, and leaves 255 out where no label is named.
        seed: Of the bootstrap.

    Raises:
        InputDataError: Ids differ, a file is no mask, or sizes differ (faults 56, 57).
    """
    require_same_ids(predictions.path, predictions.items, references.path, references.items)
    if references.empty:
        raise InputDataError(f"{references.path}: a reference needs a mask, be it an empty one")
    if compat == "lisa" and ignore_label is None:
        ignore_label = IGNORED
    counted = _count(predictions, references, ignore_label)
    counts = {item: pair.counts for item, pair in counted.items()}
    ious = {item: overlap(pair, compat=compat) for item, pair in counts.items()}
    notes = []
    if not any(pair.values for pair in counted.values()):
        notes.append("no reference has a pixel of foreground")
    if empty := len(predictions.empty):
        notes.append(f"{empty} of {len(counts)} predictions have no mask and count as empty ones")
    categories = _categories(predictions, references)
    added = LISA_SUM / len(counts) if compat == "lisa" else 0.0
    rows = [
        {"id": item, "intersection": pair.intersection, "union": pair.union, "iou": ious[item]}
        | ({"union_added": added} if added else {})
        | ({"category": categories[item]} if item in categories else {})
        for item, pair in counts.items()
    ]
    return FamilyScores(
        scores=_figures(counts, ious, compat, seed, tuple(notes), added=added),
        items=rows,
        preprocessing=_MASKS,
        details={"categories": _by_category(counts, categories, compat)} if categories else {},
        parameters={"ignore_label": ignore_label} | ({"compat": compat} if compat else {}),
        ranked_by=("iou", True),
        show=lambda item: _panels(predictions.items[item], references.items[item], ignore_label),
    )


def _count(
    predictions: MaskSet, references: MaskSet, ignore_label: int | None
) -> dict[str, _Counted]:
    faults = FaultList(place="masks")
    foregrounds: dict[int, Path] = {}
    found: list[_Counted] = []
    items = list(references.items)
    for item in console.progress(processes.share(items), desc="masks", unit="pair"):
        true = references.items[item]
        try:
            found.append(_counted(predictions.items[item], true, ignore_label))
        except InputDataError as error:
            faults.add(error)
            continue
        foregrounds |= {v: true.place for v in found[-1].values if v not in foregrounds}
    for own in processes.exchange(foregrounds):
        foregrounds |= {value: place for value, place in own.items() if value not in foregrounds}
    # Numbers may name classes where 255 is left out; 255 that is not named marks such pixels.
    is_doubtful = ignore_label is None or IGNORED in foregrounds
    if len(foregrounds) > 1 and is_doubtful and processes.is_first():
        seen = ", ".join(f"{value} in {path.name}" for value, path in sorted(foregrounds.items()))
        faults.add(
            f"references: foreground is {seen}; if one of them marks pixels to leave out, name it "
            "with --ignore-label"
        )
    faults.exchange()
    faults.raise_if_any()
    return dict(zip(items, processes.gather(found), strict=True))


def _counted(made: MaskItem, true: MaskItem, ignore_label: int | None) -> _Counted:
    if true.load is None:
        raise InputDataError(f"{true.place}: a reference needs a mask")
    target, values = target_of(true.load(), true.place, ignore_label=ignore_label)
    prediction = np.zeros(target.shape, np.bool_)
    if made.load is not None:
        prediction = prediction_of(made.load(), made.place)
    if prediction.shape != target.shape:
        sizes = [f"{len(m.T)} × {len(m)} px" for m in (prediction, target)]
        raise InputDataError(
            f"{made.place}: is {sizes[0]}, but its reference {true.place} is {sizes[1]}; nothing "
            "is resized"
        )
    return _Counted(pair_counts(prediction, target), values)


def _panels(made: MaskItem, true: MaskItem, ignore_label: int | None) -> list[Panel]:
    """Both masks, and what of them is shared, missed and too much."""
    from PIL import Image

    if true.load is None:
        return []
    target, _ = target_of(true.load(), true.place, ignore_label=ignore_label)
    covered = np.zeros(target.shape, np.bool_)
    if made.load is not None:
        covered = prediction_of(made.load(), made.place)
    counted = target != IGNORED if target.dtype != np.bool_ else np.ones_like(covered)
    truth = target.astype(np.bool_) & counted
    colours = np.full((*target.shape, 3), _GROUND, np.uint8)
    colours[covered & truth] = _SHARED
    colours[truth & ~covered] = _MISSED
    colours[covered & ~truth & counted] = _TOO_MUCH
    sides = (("prediction", covered), ("reference", truth))
    panels = [
        Panel(caption=name, picture=Image.fromarray(mask.astype(np.uint8) * 255))
        for name, mask in sides
    ]
    words = "shared (blue), missed (orange), too much (red)"
    return [*panels, Panel(caption=words, picture=Image.fromarray(colours))]


def _figures(
    counts: dict[str, PairCounts],
    ious: dict[str, float],
    compat: Compat | None,
    seed: int,
    notes: tuple[str, ...],
    *,
    added: float,
) -> dict[str, Score]:
    result = combine(counts.values(), compat=compat)
    overlaps = list(ious.values())
    sums = interval_of(
        [pair.intersection for pair in counts.values()],
        [pair.union + added for pair in counts.values()],
        seed=seed,
    )
    scores = {
        "cIoU": Score(value=result.ciou, n=result.n, interval=sums, notes=notes),
        "gIoU": Score(
            value=result.giou, n=result.n, interval=interval_of(overlaps, seed=seed), notes=notes
        ),
    }
    for bound in PRECISION_BOUNDS:
        reached = [iou >= bound for iou in overlaps]
        scores[f"precision@{bound}"] = Score(
            value=sum(reached) / len(reached),
            n=len(reached),
            interval=interval_of(reached, seed=seed),
            notes=notes,
        )
    return scores


def _categories(predictions: MaskSet, references: MaskSet) -> dict[str, str]:
    """Id → category: the reference's, else the prediction's."""
    named: dict[str, str] = {}
    for side in (predictions, references):
        named |= {item: m.category for item, m in side.items.items() if m.category is not None}
    return named


def _by_category(
    counts: dict[str, PairCounts], categories: dict[str, str], compat: Compat | None
) -> dict[str, dict[str, float]]:
    groups: dict[str, list[PairCounts]] = {}
    for item, category in categories.items():
        groups.setdefault(category, []).append(counts[item])
    figures = {}
    for category, pairs in sorted(groups.items()):
        result = combine(pairs, compat=compat)
        figures[category] = {"n": result.n, "cIoU": result.ciou, "gIoU": result.giou}
    return figures
