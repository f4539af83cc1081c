"""Scores of two sets of files by their features: distances, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli.errors import InputDataError, UsageError
from llmbind_cli.evaluation import processes
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.features import FeatureSource
from llmbind_cli.evaluation.media_set import MediaSet
from llmbind_cli.evaluation.metric_table import EXTRAPOLATED
from llmbind_cli.evaluation.scores import FamilyScores, Score, interval_of
from llmbind_cli.evaluation.statistics_file import StatisticsFile
from llmbind_cli.metrics import frechet_extrapolation as extrapolation
from llmbind_cli.metrics import kernel_distance as kernel
from llmbind_cli.metrics.feature_statistics import FeatureStatistics, write_statistics
from llmbind_cli.metrics.frechet import frechet_distance, frechet_distance_from_features
from llmbind_cli.metrics.precision_recall import precision_recall

Array = np.ndarray[Any, Any]

UNBIASED_FROM = 2048
"""Samples below which a Fréchet distance is reported with a warning."""

_NEIGHBOURS = 3
_BLOCK = 1024
_HELD = 16384
"""Samples whose features are held in memory; more are taken in as they come, where that does."""


@dataclass(frozen=True, kw_only=True)
class FeatureMetricNames:
    """What the scores by one extractor are called; ``None`` for one that it does not have.

    Attributes:
        frechet: The Fréchet distance; with ``-infinity`` after it, the extrapolated one.
        kernel: The kernel distance.
        precision: Improved precision.
        recall: Improved recall.
    """

    frechet: str | None = None
    kernel: str | None = None
    precision: str | None = None
    recall: str | None = None

    @property
    def infinite(self) -> str:
        """Name of the extrapolated Fréchet distance."""
        return f"{self.frechet}{EXTRAPOLATED}"


@dataclass(kw_only=True)
class _Side:
    """One set: its features, or, where no score needs them, their statistics alone."""

    n: int | None
    features: Array | None = None
    statistics: FeatureStatistics | None = None
    mean: Array | None = None
    covariance: Array | None = None


def score_features(
    predictions: MediaSet,
    references: MediaSet | StatisticsFile,
    *,
    metrics: Sequence[str],
    names: FeatureMetricNames,
    source: FeatureSource,
    seed: int,
    save_statistics: Path | None = None,
) -> FamilyScores:
    """Score a set of files by a set of true ones; ids need not match.

    Args:
        predictions: What was made.
        references: What is true: files, or statistics of their features.
        metrics: Those to take, of ``names`` and of their extrapolations.
        names: What the scores are called.
        source: The extractor.
        seed: Of the subsets, and of the bootstrap.
        save_statistics: File for the statistics of the references, or ``None``.

    Returns:
        The scores; none in processes that are not the first.

    Raises:
        InputDataError: There are too few files (fault 54), a file cannot be read, or statistics are
            of another network.
        UsageError: A score needs the references' files, and statistics were given.
        OutputError: The statistics cannot be written.
    """
    asked = set(metrics)
    whole = asked & {names.kernel, names.precision, names.recall}
    if isinstance(references, StatisticsFile):
        if whole or save_statistics is not None:
            what = ", ".join(sorted(map(str, whole))) or "--save-stats"
            raise UsageError(f"{what}: needs the references themselves, not their statistics")
        references.require_features(source.extractor.weights, source.preprocessing)
    made, true = _sides(predictions, references, asked, names, source)
    if not processes.is_first():
        return FamilyScores(scores={}, items=[], preprocessing=source.preprocessing)
    if save_statistics is not None:
        statistics = true.statistics or _reduced(true.features)
        _write(save_statistics, statistics, source)
    scores: dict[str, Score] = {}
    parameters: dict[str, Any] = {**source.parameters}
    if names.frechet in asked:
        scores[names.frechet] = _frechet(made, true)
    if names.infinite in asked:
        scores[names.infinite] = _extrapolated(made, true, seed)
        parameters |= _extrapolation_settings(made)
    rows: dict[str, list[bool]] = {}
    if whole and made.features is not None and true.features is not None:
        rows = _by_neighbours(made.features, true.features, names, asked, parameters)
        if names.kernel in asked:
            size = min(kernel.SUBSET_SIZE, len(made.features), len(true.features))
            scores[names.kernel] = _kernel(made.features, true.features, size, seed)
            parameters |= {"subsets": kernel.SUBSETS, "subset_size": size}
    for name, inside in rows.items():
        value = sum(inside) / len(inside)
        scores[name] = Score(value=value, n=len(inside), interval=interval_of(inside, seed=seed))
    if source.parts is not None:
        told = _told(predictions, made, source.parts, references, true)
        scores = {name: replace(one, notes=(told, *one.notes)) for name, one in scores.items()}
    ids = {names.precision: list(predictions.files)}
    if isinstance(references, MediaSet):
        ids[names.recall] = list(references.files)
    return FamilyScores(
        scores=scores,
        items=[
            {"id": item, name: value}
            for name, values in sorted(rows.items())
            for item, value in zip(ids[name], values, strict=True)
        ],
        preprocessing=source.preprocessing,
        parameters=parameters | {"device": source.device},
        backbone=source.extractor.weights.card(),
    )


def save_reference_statistics(media: MediaSet, source: FeatureSource, path: Path) -> None:
    """Write the statistics of a set, as pytorch-fid reads them and ``--ref`` takes them.

    Args:
        media: The files, of at least two samples.
        source: The extractor.
        path: ``.npz``.

    Raises:
        InputDataError: A file cannot be read, or there is but one sample.
        OutputError: The statistics cannot be written.
    """
    faults = FaultList(place=media.path)
    statistics = source.statistics(media, faults)
    faults.raise_if_any()
    if statistics.n < 2:
        raise InputDataError(
            f"{media.path}: statistics need at least 2 {source.parts or 'files'}, "
            f"got {statistics.n}"
        )
    if processes.is_first():
        _write(path, statistics, source)


def _write(path: Path, statistics: FeatureStatistics, source: FeatureSource) -> None:
    weights = source.extractor.weights
    facts = {
        "name": weights.name,
        "sha256": weights.sha256,
        "preprocessing": source.preprocessing,
    }
    write_statistics(path, statistics, extractor=facts)


def _sides(
    predictions: MediaSet,
    references: MediaSet | StatisticsFile,
    asked: set[str],
    names: FeatureMetricNames,
    source: FeatureSource,
) -> tuple[_Side, _Side]:
    """Describe both sets, which must not be too small."""
    if source.parts is None:
        m = len(references.files) if isinstance(references, MediaSet) else references.n
        _require_enough(len(predictions.files), m, asked, names, "files")
    whole = bool(asked & {names.kernel, names.precision, names.recall})
    faults = FaultList(place=f"{predictions.path} and {references.path}")
    made = _side(predictions, source, faults, whole=whole or names.infinite in asked)
    true = _true_side(references, source, faults, made, whole=whole)
    faults.raise_if_any()
    if source.parts is not None:
        _require_enough(made.n or 0, true.n, asked, names, source.parts)
    return made, true


def _require_enough(
    n: int, m: int | None, asked: set[str], names: FeatureMetricNames, what: str
) -> None:
    least = _NEIGHBOURS + 1 if asked & {names.precision, names.recall} else 2
    if n < least or (m is not None and m < least):
        raise InputDataError(
            f"{', '.join(sorted(asked))}: at least {least} {what} a side are needed, got {n} "
            f"predictions and {m} references"
        )
    if names.infinite in asked and n < extrapolation.LEAST_SAMPLES:
        raise InputDataError(
            f"{names.infinite}: at least {extrapolation.LEAST_SAMPLES} predictions are needed, "
            f"got {n}"
        )


def _told(
    predictions: MediaSet,
    made: _Side,
    parts: str,
    references: MediaSet | StatisticsFile,
    true: _Side,
) -> str:
    """Tell how many parts of how many files were compared."""
    others = "" if true.n is None else f" beside {true.n}"
    if others and isinstance(references, MediaSet):
        others += f" of {len(references.files)}"
    return f"{made.n} {parts} of {len(predictions.files)} files{others}"


def _side(media: MediaSet, source: FeatureSource, faults: FaultList, *, whole: bool) -> _Side:
    """Describe a set: by its features where they are needed or few, else by their statistics."""
    if not whole:
        kept = source.kept_statistics(media)
        if kept is None and len(media.files) * source.samples_per_file > _HELD:
            kept = source.statistics(media, faults)
        if kept is not None:
            return _of_statistics(kept)
    features = source.extract(media, faults).features
    n = len(features)
    if faults.faults or n <= features.shape[1]:
        return _Side(n=n, features=features)
    statistics = _reduced(features)
    source.keep_statistics(media, statistics)
    side = _of_statistics(statistics)
    side.features = features
    return side


def _of_statistics(statistics: FeatureStatistics) -> _Side:
    return _Side(
        n=statistics.n,
        statistics=statistics,
        mean=statistics.mean,
        covariance=statistics.covariance,
    )


def _reduced(features: Array | None) -> FeatureStatistics:
    """Take features in block by block, as they are where they are not held."""
    if features is None:
        raise ValueError("a side has neither features nor statistics")
    statistics = FeatureStatistics(width=features.shape[1])
    for start in range(0, len(features), _BLOCK):
        statistics.update(features[start : start + _BLOCK])
    return statistics


def _true_side(
    references: MediaSet | StatisticsFile,
    source: FeatureSource,
    faults: FaultList,
    made: _Side,
    *,
    whole: bool,
) -> _Side:
    if isinstance(references, MediaSet):
        # Few predictions have no covariance of full rank, and are compared feature by feature.
        return _side(references, source, faults, whole=whole or made.mean is None)
    width = len(made.mean) if made.mean is not None else _width(made)
    if width is not None:
        references.require_width(width)
    stored = references.stored
    return _Side(n=stored.n, mean=stored.mean, covariance=stored.covariance)


def _width(side: _Side) -> int | None:
    return side.features.shape[1] if side.features is not None and side.features.size else None


def _frechet(made: _Side, true: _Side) -> Score:
    if made.mean is None and made.features is not None and true.features is not None:
        value = frechet_distance_from_features(made.features, true.features)
    else:
        value = frechet_distance(*_moments(made), *_moments(true))
    return Score(value=value, n=_smaller(made, true), notes=_few(made, true))


def _moments(side: _Side) -> tuple[Array, Array]:
    if side.mean is not None and side.covariance is not None:
        return side.mean, side.covariance
    if side.features is None:
        raise ValueError("a side has neither features nor statistics")
    return side.features.mean(axis=0), np.cov(side.features, rowvar=False)


def _smaller(made: _Side, true: _Side) -> int:
    return min(n for n in (made.n, true.n) if n is not None)


def _few(made: _Side, true: _Side) -> tuple[str, ...]:
    notes = []
    if (smaller := _smaller(made, true)) < UNBIASED_FROM:
        notes.append(
            f"biased upwards: {smaller} samples are fewer than {UNBIASED_FROM}; compare it only "
            "with figures of the same counts"
        )
    if true.n is None:
        notes.append("the statistics do not tell of how many references they are")
    return tuple(notes)


def _extrapolated(made: _Side, true: _Side, seed: int) -> Score:
    if made.features is None:
        raise ValueError("an extrapolation needs the features of the predictions")
    line = extrapolation.extrapolated_frechet_distance(made.features, *_moments(true), seed=seed)
    notes = []
    if line.sizes[0] < extrapolation.SMALLEST:
        notes.append(
            f"extrapolated from subsets of {line.sizes[0]} to {line.sizes[-1]} predictions; "
            f"arXiv 1911.07023 goes from {extrapolation.SMALLEST} on"
        )
    if line.value < 0:
        notes.append("below 0, so within its error of 0")
    return Score(value=line.value, n=len(made.features), notes=tuple(notes))


def _extrapolation_settings(made: _Side) -> dict[str, Any]:
    sizes = extrapolation.subset_sizes(made.n or 0)
    return {"extrapolation_points": len(sizes), "extrapolation_sizes": [sizes[0], sizes[-1]]}


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


def _by_neighbours(
    made: Array,
    true: Array,
    names: FeatureMetricNames,
    asked: set[str],
    parameters: dict[str, Any],
) -> dict[str, list[bool]]:
    """Which predictions lie among the references, and the other way round, as far as asked."""
    if not asked & {names.precision, names.recall}:
        return {}
    parameters["k"] = _NEIGHBOURS
    shares = precision_recall(made, true, k=_NEIGHBOURS)
    found = {names.precision: shares.precise, names.recall: shares.recalled}
    return {name: rows for name, rows in found.items() if name is not None and name in asked}
