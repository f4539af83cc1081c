"""One run of ``llmbind eval``: scorings → figures → report → gates.

Scoring reads files and never needs the model that made them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from llmbind_cli import __version__
from llmbind_cli.console import console
from llmbind_cli.errors import OutputError, UsageError
from llmbind_cli.evaluation import report_text
from llmbind_cli.evaluation.gate import Gate, check_gates, raise_if_failed, require_figures
from llmbind_cli.evaluation.media_set import MediaSet, json_lines, pair_up, read_media_set
from llmbind_cli.evaluation.metric_table import Family, Metric, find_metrics
from llmbind_cli.evaluation.report import (
    Backbone,
    DataCard,
    IntervalCard,
    MetricCard,
    Protocol,
    RecipeCard,
    Report,
    ScoringCard,
    clean,
    environment,
    gate_entries,
    metric_entry,
    metric_key,
)
from llmbind_cli.evaluation.scores import FamilyScores
from llmbind_cli.weights.atomic import storage_error, write_atomically
from llmbind_cli.weights.hashes import sha256_file

REPORT_FILES = ("report.json", "report.md", "junit.xml", "items.jsonl")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One pair of inputs and the metrics to take of it.

    Attributes:
        name: Stands before the names of its figures; ``None`` on the command line.
        metrics: Names of metrics.
        predictions: Folder, manifest or file of lines.
        references: Likewise.
        ignore_label: Number of the reference pixels that masks are not scored on.
    """

    name: str | None = None
    metrics: Sequence[str]
    predictions: Path
    references: Path
    ignore_label: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What holds for a whole run.

    Attributes:
        seed: Of intervals and subsets.
        device: Where extractors run: ``auto``, ``cpu`` or ``cuda``.
        offline: Fetch no weights.
        report: Folder for the report's files, or ``None``.
        recipe: The recipe that the scorings come from, or ``None``.
    """

    seed: int = 0
    device: str = "auto"
    offline: bool = False
    report: Path | None = None
    recipe: Path | None = None


@dataclass(kw_only=True)
class _Collected:
    """What the scorings have given so far."""

    cards: list[ScoringCard] = field(default_factory=list)
    entries: dict[str, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)


def run_eval(scorings: Sequence[Scoring], gates: Sequence[Gate], settings: EvalSettings) -> Report:
    """Score, write the report, print it, and hold the figures against their gates.

    Args:
        scorings: At least one; names differ.
        gates: Bounds; each on a figure that the scorings give.
        settings: What holds for all of them.

    Returns:
        The report.

    Raises:
        UsageError: An unknown metric, a gate on a figure that is not computed, or a label to leave
            out where nothing is scored by masks.
        InputDataError: The inputs cannot be scored; nothing is reported.
        ModelNotFoundError: Weights of an extractor are missing.
        OutputError: The report's folder cannot be written.
        GateFailed: A figure broke its bound; the report has been written and printed.
    """
    found = [(scoring, find_metrics(scoring.metrics)) for scoring in scorings]
    require_figures(
        gates, (metric_key(scoring.name, m.name) for scoring, metrics in found for m in metrics)
    )
    for scoring, metrics in found:
        if scoring.ignore_label is not None and all(m.family != "masks" for m in metrics):
            raise UsageError(f"--ignore-label is for masks; {metrics[0].name} takes none")
    if settings.report is not None:
        _prepare(settings.report)
    collected = _Collected()
    for scoring, metrics in found:
        families = list(dict.fromkeys(metric.family for metric in metrics))
        for family in families:
            _score(scoring, family, [m for m in metrics if m.family == family], settings, collected)
    results = check_gates(gates, collected.values)
    report = Report(
        protocol=_protocol(settings, collected.cards),
        metrics=collected.entries,
        gates=gate_entries(results),
        details=clean(collected.details),
        environment=environment(),
    )
    for name, entry in report.metrics.items():
        for note in entry.notes:
            console.warn(f"{name}: {note}")
    if settings.report is not None:
        _write(settings.report, report, collected.items)
    console.result(report.model_dump_json() if console.json else report_text.table(report))
    raise_if_failed(results)
    return report


def _score(
    scoring: Scoring,
    family: Family,
    metrics: list[Metric],
    settings: EvalSettings,
    collected: _Collected,
) -> None:
    scores, predictions, references = _family_scores(scoring, family, metrics, settings)
    collected.cards.append(
        ScoringCard(
            name=scoring.name,
            metrics=[MetricCard(name=m.name, definition=m.definition) for m in metrics],
            predictions=predictions,
            references=references,
            preprocessing=scores.preprocessing,
            backbone=Backbone(**scores.backbone) if scores.backbone else None,
            parameters=scores.parameters,
        )
    )
    for metric in metrics:
        if (score := scores.scores.get(metric.name)) is not None:
            key = metric_key(scoring.name, metric.name)
            collected.entries[key] = metric_entry(metric.name, score)
            collected.values[key] = score.value
    if scores.details:
        collected.details[metric_key(scoring.name, family)] = scores.details
    collected.items += [{"scoring": scoring.name, "family": family} | row for row in scores.items]


def _family_scores(
    scoring: Scoring, family: Family, metrics: list[Metric], settings: EvalSettings
) -> tuple[FamilyScores, DataCard, DataCard]:
    names, seed = [metric.name for metric in metrics], settings.seed
    if family == "routing":
        from llmbind_cli.evaluation.routing_scores import score_routing

        scores = score_routing(scoring.predictions, scoring.references, seed=seed)
        return scores, _lines_card(scoring.predictions), _lines_card(scoring.references)
    made, true = read_media_set(scoring.predictions), read_media_set(scoring.references)
    cards = _set_card(made), _set_card(true)
    if family == "features":
        from llmbind_cli.evaluation.feature_scores import score_features

        scores = score_features(
            made,
            true,
            metrics=names,
            seed=seed,
            device=settings.device,
            offline=settings.offline,
        )
        return scores, *cards
    from llmbind_cli.evaluation import paired_scores

    pairs = pair_up(made, true)
    if family == "masks":
        scores = paired_scores.score_masks(pairs, ignore_label=scoring.ignore_label, seed=seed)
    else:
        scores = paired_scores.score_pictures(pairs, metrics=names, seed=seed)
    return scores, *cards


def _protocol(settings: EvalSettings, cards: list[ScoringCard]) -> Protocol:
    recipe = settings.recipe
    return Protocol(
        llmbind=__version__,
        seed=settings.seed,
        recipe=RecipeCard(path=clean(str(recipe)), sha256=sha256_file(recipe)) if recipe else None,
        interval=IntervalCard(),
        scorings=cards,
    )


def _set_card(media: MediaSet) -> DataCard:
    return DataCard(
        path=clean(media.path), kind=media.kind, sha256=media.sha256, count=len(media.files)
    )


def _lines_card(path: Path) -> DataCard:
    count = len({fields["id"] for _, fields in json_lines(path)})
    return DataCard(path=clean(str(path)), kind="lines", sha256=sha256_file(path), count=count)


def _prepare(folder: Path) -> None:
    """Make the report's folder and write to it once, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: is a file; --report needs a folder") from error
    except OSError as error:
        raise storage_error(folder, error) from error
    trial = folder / ".llmbind-trial"
    write_atomically(trial, lambda stream: stream.write(b""))
    trial.unlink(missing_ok=True)


def _write(folder: Path, report: Report, items: list[dict[str, Any]]) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in items)
    contents = (
        report.model_dump_json(indent=2).encode() + b"\n",
        report_text.markdown(report).encode("utf-8", "replace"),
        report_text.junit(report),
        rows.encode(),
    )
    for name, content in zip(REPORT_FILES, contents, strict=True):
        write_atomically(folder / name, partial(_put, content))
    console.log(f"report in {folder}: {', '.join(REPORT_FILES)}")


def _put(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)
