"""Scores of pairs: pictures beside the true ones.

Every fault of the inputs is collected and told at once; a set with a fault gets no score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation import processes
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.scores import FamilyScores, Panel, Score, interval_of
from llmbind_cli.metrics.psnr import psnr
from llmbind_cli.metrics.ssim import ssim

Pairs = Sequence[tuple[str, Path, Path]]

_PICTURES = "8-bit sRGB, first frame, EXIF applied, transparency on white; never resized"


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
    files = {item: (made, true) for item, made, true in pairs}
    own = processes.share(pairs)
    for item, made, true in console.progress(own, desc="pictures", unit="pair"):
        try:
            pixels = [np.asarray(read_picture(path)) for path in (made, true)]
            _require_one_size(made, pixels[0].shape, true, pixels[1].shape)
            rows.append({"id": item} | {name: functions[name](*pixels) for name in metrics})
        except InputDataError as error:
            faults.add(error)
        except ValueError as error:
            faults.add(f"{made}: {error}")
    faults.exchange()
    faults.raise_if_any()
    rows = processes.gather(rows)
    return FamilyScores(
        scores={name: _mean_score([row[name] for row in rows], seed) for name in metrics},
        items=[
            {key: None if value == math.inf else value for key, value in row.items()}
            for row in rows
        ],
        preprocessing=_PICTURES,
        ranked_by=(metrics[0], True),
        show=lambda item: [
            Panel(caption=name, picture=read_picture(path))
            for name, path in zip(("prediction", "reference"), files[item], strict=True)
        ],
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
