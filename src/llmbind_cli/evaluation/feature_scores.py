"""Scores of two sets of pictures by their features: distances, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.media_set import MediaSet
from llmbind_cli.evaluation.scores import FamilyScores, Score, interval_of
from llmbind_cli.inference.pictures import read_picture
from llmbind_cli.metrics import kernel_distance as kernel
from llmbind_cli.metrics.extractors import efficientnet_lite
from llmbind_cli.metrics.frechet import frechet_distance_from_features
from llmbind_cli.metrics.precision_recall import precision_recall

Array = np.ndarray[Any, Any]

UNBIASED_FROM = 2048
"""Samples below which a Fréchet distance is reported with a warning."""

_NEIGHBOURS = 3
_BATCH_SIZE = 32


def score_features(
    predictions: MediaSet,
    references: MediaSet,
    *,
    metrics: Sequence[str],
    seed: int,
    device: str,
    offline: bool,
) -> FamilyScores:
    """Score a set of pictures by a set of true ones; ids need not match.

    Args:
        predictions: What was made.
        references: What is true.
        metrics: Names of the family ``features``.
        seed: Of the subsets of the kernel distance, and of the bootstrap.
        device: ``auto``, ``cpu`` or ``cuda``.
        offline: Never fetch the extractor's weights.

    Raises:
        InputDataError: There are too few pictures (fault 54), or a file is none.
        ModelNotFoundError: The extractor's weights are missing.
    """
    from llmbind_cli.nn.device import choose_device

    n, m = len(predictions.files), len(references.files)
    neighbours = {"precision", "recall"} & set(metrics)
    least = _NEIGHBOURS + 1 if neighbours else 2
    if min(n, m) < least:
        raise InputDataError(
            f"{', '.join(metrics)}: at least {least} pictures a side are needed, got {n} "
            f"predictions and {m} references"
        )
    chosen = choose_device(device)
    network = efficientnet_lite.load_extractor(offline=offline).to(chosen)
    faults = FaultList(place="pictures")
    made, true = (_features(network, side, faults) for side in (predictions, references))
    faults.raise_if_any()
    scores: dict[str, Score] = {}
    rows: dict[str, list[bool]] = {}
    size = min(kernel.SUBSET_SIZE, n, m)
    if "FD-effnet-lite0" in metrics:
        scores["FD-effnet-lite0"] = _frechet(made, true)
    if "KID-effnet-lite0" in metrics:
        scores["KID-effnet-lite0"] = _kernel(made, true, size, seed)
    if neighbours:
        shares = precision_recall(made, true, k=_NEIGHBOURS)
        found = {
            "precision": (shares.precision, shares.precise),
            "recall": (shares.recall, shares.recalled),
        }
        for name in sorted(neighbours):
            value, rows[name] = found[name]
            interval = interval_of(rows[name], seed=seed)
            scores[name] = Score(value=value, n=len(rows[name]), interval=interval)
    subsets = {"subsets": kernel.SUBSETS, "subset_size": size}
    return FamilyScores(
        scores=scores,
        items=_items(predictions, references, rows),
        preprocessing=efficientnet_lite.PREPROCESSING,
        parameters=(subsets if "KID-effnet-lite0" in metrics else {})
        | ({"k": _NEIGHBOURS} if neighbours else {})
        | {"device": chosen.type},
        backbone={
            "name": efficientnet_lite.NAME,
            "source": efficientnet_lite.PRETRAINED,
            "sha256": efficientnet_lite.PRETRAINED_SHA256,
        },
    )


def _frechet(made: Array, true: Array) -> Score:
    smaller = min(len(made), len(true))
    notes = (
        f"biased upwards: {smaller} samples are fewer than {UNBIASED_FROM}; compare it only with "
        f"figures of the same counts",
    )
    return Score(
        value=frechet_distance_from_features(made, true),
        n=smaller,
        notes=notes if smaller < UNBIASED_FROM else (),
    )


def _kernel(made: Array, true: Array, size: int, seed: int) -> Score:
    result = kernel.kernel_distance(made, true, subset_size=size, seed=seed)
    drawn = size < max(len(made), len(true))
    if size == kernel.SUBSET_SIZE:
        return Score(value=result.mean, n=min(len(made), len(true)), std=result.std)
    note = f"subsets of {size} samples, where {kernel.SUBSET_SIZE} are customary"
    return Score(
        value=result.mean,
        n=min(len(made), len(true)),
        # Subsets that are the whole of both sets are all the same and have no spread.
        std=result.std if drawn else None,
        notes=(note,),
    )


def _features(network: Any, side: MediaSet, faults: FaultList) -> Array:
    """Features of all readable pictures, in the order of their ids: [n, 1280]."""
    parts = []
    files = list(side.files.values())
    with console.progress(total=len(files), desc=side.path, unit="picture") as bar:
        for start in range(0, len(files), _BATCH_SIZE):
            pictures = []
            for path in files[start : start + _BATCH_SIZE]:
                try:
                    pictures.append(read_picture(path))
                except InputDataError as error:
                    faults.add(error)
            # After a fault there will be no score, and what is left to do is to find all faults.
            if not faults.faults:
                parts.append(efficientnet_lite.extract(network, pictures))
            bar.update(len(pictures))
    return np.concatenate(parts) if parts else np.empty((0, 0))


def _items(
    predictions: MediaSet, references: MediaSet, rows: dict[str, list[bool]]
) -> list[dict[str, Any]]:
    sides = {"precision": predictions, "recall": references}
    return [
        {"id": item, name: value}
        for name, values in rows.items()
        for item, value in zip(sides[name].files, values, strict=True)
    ]
