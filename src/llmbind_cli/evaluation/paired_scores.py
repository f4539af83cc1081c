"""Scores of pairs: masks beside their targets, and pictures beside the true ones.

Every fault of the inputs is collected and told at once; a set with a fault gets no score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.mask_files import prediction_of, read_mask, target_of
from llmbind_cli.evaluation.scores import FamilyScores, Score, interval_of
from llmbind_cli.inference.pictures import read_picture
from llmbind_cli.metrics.iou import PairCounts, combine, pair_counts
from llmbind_cli.metrics.psnr import psnr
from llmbind_cli.metrics.ssim import ssim

Pairs = Sequence[tuple[str, Path, Path]]

_MASKS = (
    "the numbers of one-channel pictures, EXIF applied; 0 is background, every other number "
    "foreground, but for the ignored label of references"
)
_PICTURES = "8-bit sRGB, first frame, EXIF applied, transparency on white; never resized"


def score_masks(pairs: Pairs, *, ignore_label: int | None, seed: int) -> FamilyScores:
    """Score predicted masks.

    Args:
        pairs: Id, prediction and reference.
        ignore_label: Number of the reference pixels that are left out; ``None``: none are.
        seed: Of the bootstrap.

    Raises:
        InputDataError: A file is no mask, or sizes differ (fault 57).
    """
    faults = FaultList(place="masks")
    counts: dict[str, PairCounts] = {}
    foregrounds: dict[int, Path] = {}
    for item, made, true in console.progress(pairs, desc="masks", unit="pair"):
        try:
            prediction = prediction_of(read_mask(made), made)
            target, values = target_of(read_mask(true), true, ignore_label=ignore_label)
            _require_one_size(made, prediction.shape, true, target.shape)
        except InputDataError as error:
            faults.add(error)
            continue
        foregrounds |= {value: true for value in values if value not in foregrounds}
        counts[item] = pair_counts(prediction, target)
    if len(foregrounds) > 1 and ignore_label is None:
        seen = ", ".join(f"{value} in {path.name}" for value, path in sorted(foregrounds.items()))
        faults.add(
            f"references: foreground is {seen}; if one of them marks pixels to leave out, name it "
            "with --ignore-label"
        )
    faults.raise_if_any()
    result = combine(counts.values())
    intersections = [pair.intersection for pair in counts.values()]
    unions = [pair.union for pair in counts.values()]
    ious = [pair.iou for pair in counts.values()]
    empty = ("no reference has a pixel of foreground",) if not foregrounds else ()
    return FamilyScores(
        scores={
            "cIoU": Score(
                value=result.ciou,
                n=result.n,
                interval=interval_of(intersections, unions, seed=seed),
                notes=empty,
            ),
            "gIoU": Score(
                value=result.giou,
                n=result.n,
                interval=interval_of(ious, seed=seed),
                notes=empty,
            ),
        },
        items=[
            {"id": item, "intersection": pair.intersection, "union": pair.union, "iou": pair.iou}
            for item, pair in counts.items()
        ],
        preprocessing=_MASKS,
        parameters={"ignore_label": ignore_label},
    )


def score_pictures(pairs: Pairs, *, metrics: Sequence[str], seed: int) -> FamilyScores:
    """Score pictures beside the true ones.

    Args:
        pairs: Id, prediction and reference.
        metrics: ``PSNR``, ``SSIM`` or both.
        seed: Of the bootstrap.

    Raises:
        InputDataError: A file is no picture, sizes differ, or one is too small for SSIM.
    """
    faults = FaultList(place="pictures")
    functions = {"PSNR": psnr, "SSIM": ssim}
    rows: list[dict[str, Any]] = []
    for item, made, true in console.progress(pairs, desc="pictures", unit="pair"):
        try:
            pixels = [np.asarray(read_picture(path)) for path in (made, true)]
            _require_one_size(made, pixels[0].shape, true, pixels[1].shape)
            rows.append({"id": item} | {name: functions[name](*pixels) for name in metrics})
        except InputDataError as error:
            faults.add(error)
        except ValueError as error:
            faults.add(f"{made}: {error}")
    faults.raise_if_any()
    return FamilyScores(
        scores={name: _mean_score([row[name] for row in rows], seed) for name in metrics},
        items=[
            {key: None if value == math.inf else value for key, value in row.items()}
            for row in rows
        ],
        preprocessing=_PICTURES,
    )


def _mean_score(values: list[float], seed: int) -> Score:
    equal = sum(math.isinf(value) for value in values)
    if equal == len(values):
        note = f"infinite: all {equal} pairs are equal pixel by pixel"
        return Score(value=math.inf, n=equal, notes=(note,))
    if equal:
        # An infinite mean would pass every gate, however bad the other pairs are.
        note = f"no mean: {equal} of {len(values)} pairs are equal pixel by pixel, so infinite"
        return Score(value=math.nan, n=len(values), notes=(note,))
    interval = interval_of(values, seed=seed)
    return Score(value=math.fsum(values) / len(values), n=len(values), interval=interval)


def _require_one_size(
    made: Path, made_shape: tuple[int, ...], true: Path, true_shape: tuple[int, ...]
) -> None:
    if made_shape[:2] != true_shape[:2]:
        sizes = [f"{shape[1]} × {shape[0]} px" for shape in (made_shape, true_shape)]
        raise InputDataError(
            f"{made}: is {sizes[0]}, but its reference {true} is {sizes[1]}; nothing is resized"
        )
