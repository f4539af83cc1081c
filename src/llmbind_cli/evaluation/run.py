"""One run of ``llmbind eval``: scorings → figures → report → gates.

Scoring reads files and never needs the model that made them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, UsageError
from llmbind_cli.evaluation import processes, report_text
from llmbind_cli.evaluation.cards import prompts_card, protocol_card, scoring_card
from llmbind_cli.evaluation.features import ExtractionSettings
from llmbind_cli.evaluation.gate import Gate, check_gates, raise_if_failed, require_figures
from llmbind_cli.evaluation.mask_set import count_masks
from llmbind_cli.evaluation.media_set import count_items
from llmbind_cli.evaluation.metric_table import (
    OF_FILES,
    WITH_WORDS,
    WITHOUT_REFERENCES,
    Family,
    Metric,
    find_metrics,
    with_extrapolations,
)
from llmbind_cli.evaluation.report import (
    Report,
    ScoringCard,
    clean,
    environment,
    gate_entries,
    metric_entry,
    metric_key,
)
from llmbind_cli.evaluation.report_folder import prepare_folder, write_files
from llmbind_cli.evaluation.report_page import ScoredFamily, report_page
from llmbind_cli.evaluation.score_family import grouped, score_family
from llmbind_cli.metrics.iou import Compat

REPORT_FILES = ("report.json", "report.md", "report.html", "junit.xml", "items.jsonl")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One pair of inputs and the metrics to take of it.

    Attributes:
        name: Stands before the names of its figures; ``None`` on the command line.
        metrics: Names of metrics.
        predictions: Folder, manifest or file of lines.
        references: Likewise.
        prompts: File of the words that media are scored by; ``None``: those of the manifest.
        ignore_label: Number of the reference pixels that masks are not scored on.
        compat: Whose overlaps to give, digit by digit; ``None``: exact quotients.
        samples: How many predictions there must be; ``None``: any number.
        minus: Name of another scoring, whose figures are subtracted from those of this one.
        first_of_each: Of several files that a request made, score the first.
    """

    name: str | None = None
    metrics: Sequence[str]
    predictions: Path
    references: Path | None = None
    prompts: Path | None = None
    ignore_label: int | None = None
    compat: Compat | None = None
    samples: int | None = None
    minus: str | None = None
    first_of_each: bool = False


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What holds for a whole run.

    Attributes:
        seed: Of intervals and subsets.
        device: Where extractors run: ``auto``, ``cpu`` or ``cuda``.
        offline: Fetch no weights.
        report: Folder for the report's files, or ``None``.
        recipe: The recipe that the scorings come from, or ``None``.
        extraction: How features are extracted.
        extrapolate: Also extrapolate each Fréchet distance to infinitely many predictions.
        save_statistics: File for the statistics of the references' features, or ``None``.
        weights: Name → source of weights that the user gives.
        splits: Of inception scores.
        benchmark: What the recipe measures, in words; ``None`` where it does not say.
    """

    seed: int = 0
    device: str = "auto"
    offline: bool = False
    report: Path | None = None
    recipe: Path | None = None
    extraction: ExtractionSettings = field(default_factory=ExtractionSettings)
    extrapolate: bool = False
    save_statistics: Path | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    splits: int = 10
    benchmark: Mapping[str, Any] | None = None


@dataclass(kw_only=True)
class _Collected:
    """What the scorings have given so far."""

    cards: list[ScoringCard] = field(default_factory=list)
    entries: dict[str, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    families: list[ScoredFamily] = field(default_factory=list)


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
    found = require_fitting(scorings, gates, settings)
    if settings.report is not None and processes.is_first():
        prepare_folder(settings.report)
    for scoring, metrics in found:
        _require_samples(scoring, metrics)
    collected = _Collected()
    for scoring, metrics in found:
        for group in grouped(metrics):
            _score(scoring, group[0].family, group, settings, collected)
    if not processes.is_first():
        gates = []
    collected.details |= _contrasts(found, collected, settings)
    results = check_gates(gates, collected.values)
    report = Report(
        protocol=protocol_card(settings.recipe, settings.seed, collected.cards),
        metrics=collected.entries,
        gates=gate_entries(results),
        details=clean(collected.details),
        environment=environment(),
    )
    if not processes.is_first():
        return report
    for name, entry in report.metrics.items():
        for note in entry.notes:
            console.warn(f"{name}: {note}")
    if settings.report is not None:
        _write(settings.report, report, collected)
    console.result(report.model_dump_json() if console.json else report_text.table(report))
    raise_if_failed(results)
    return report


def require_fitting(
    scorings: Sequence[Scoring], gates: Sequence[Gate], settings: EvalSettings
) -> list[tuple[Scoring, list[Metric]]]:
    """Refuse what does not fit together, which shows before any file is read.

    Args:
        scorings: As for :func:`run_eval`.
        gates: Bounds.
        settings: What holds for all of them.

    Returns:
        The scorings, each with its metrics.

    Raises:
        UsageError: An unknown metric, a gate on a figure that is not computed, an option that no
            metric takes, references that are missing, or nothing to subtract.
    """
    found = [(scoring, find_metrics(_names(scoring, settings))) for scoring in scorings]
    require_figures(
        gates, (metric_key(scoring.name, m.name) for scoring, metrics in found for m in metrics)
    )
    names = {scoring.name: {metric.name for metric in metrics} for scoring, metrics in found}
    for scoring, metrics in found:
        _require_options(scoring, metrics)
        if scoring.minus and names[scoring.name].isdisjoint(names.get(scoring.minus, ())):
            raise UsageError(
                f"{scoring.name}: minus {scoring.minus}, and both have no figure in common"
            )
    if settings.save_statistics is not None:
        families = [metric.family for _, metrics in found for metric in metrics]
        if len(found) != 1 or "features" not in families:
            raise UsageError("--save-stats: needs one scoring by features, such as a distance")
    return found


def _require_samples(scoring: Scoring, metrics: Sequence[Metric]) -> None:
    """Refuse another number of predictions than the protocol has, before they are scored."""
    if scoring.samples is None:
        return
    of_masks = any(metric.family == "masks" for metric in metrics)
    count = (count_masks if of_masks else count_items)(scoring.predictions)
    if count is not None and count != scoring.samples:
        raise InputDataError(
            f"{scoring.predictions}: holds {count} predictions, and the protocol of "
            f"{scoring.name} has {scoring.samples}"
        )


def _contrasts(
    found: Sequence[tuple[Scoring, Sequence[Metric]]],
    collected: _Collected,
    settings: EvalSettings,
) -> dict[str, Any]:
    """Subtract the figures of one scoring from those of another that names it."""
    from llmbind_cli.evaluation.comparison import contrast

    differences = {}
    for scoring, metrics in found:
        for metric in metrics if scoring.minus else ():
            keys = metric_key(scoring.minus, metric.name), metric_key(scoring.name, metric.name)
            if all(key in collected.entries for key in keys):
                difference = contrast(keys, collected.entries, collected.items, seed=settings.seed)
                differences[f"{keys[1]} − {keys[0]}"] = difference.model_dump(mode="json")
    details: dict[str, Any] = {"differences": differences} if differences else {}
    return details | ({"benchmark": dict(settings.benchmark)} if settings.benchmark else {})


def _names(scoring: Scoring, settings: EvalSettings) -> Sequence[str]:
    return with_extrapolations(scoring.metrics) if settings.extrapolate else scoring.metrics


def _require_options(scoring: Scoring, metrics: Sequence[Metric]) -> None:
    """Refuse options that no metric takes, and references that are missing or that none takes."""
    of = "" if scoring.name is None else f"{scoring.name}: "
    for flag, value in (("--ignore-label", scoring.ignore_label), ("--compat", scoring.compat)):
        if value is not None and all(m.family != "masks" for m in metrics):
            raise UsageError(f"{of}{flag} is for masks; {metrics[0].name} takes none")
    if scoring.first_of_each and all(m.family not in OF_FILES for m in metrics):
        raise UsageError(f"{of}--first-of-each is for media; {metrics[0].name} takes none")
    needing = [m.name for m in metrics if m.family not in WITHOUT_REFERENCES]
    if needing and scoring.references is None:
        raise UsageError(f"{of}--ref: is missing; {needing[0]} compares with references")
    if not needing and scoring.references is not None:
        raise UsageError(f"{of}--ref: {metrics[0].name} takes no references")
    if scoring.prompts is not None and all(m.family not in WITH_WORDS for m in metrics):
        raise UsageError(f"{of}--prompts: {metrics[0].name} takes no words")


def _score(
    scoring: Scoring,
    family: Family,
    metrics: list[Metric],
    settings: EvalSettings,
    collected: _Collected,
) -> None:
    scores, predictions, references = score_family(scoring, family, metrics, settings)
    prompts = None
    if family in WITH_WORDS:
        prompts = prompts_card(
            scoring.prompts, scoring.predictions, first_of_each=scoring.first_of_each
        )
    collected.cards.append(
        scoring_card(
            scoring.name,
            metrics,
            scores,
            predictions=predictions,
            references=references,
            prompts=prompts,
        )
    )
    for metric in metrics:
        if (score := scores.scores.get(metric.name)) is not None:
            key = metric_key(scoring.name, metric.name)
            collected.entries[key] = metric_entry(metric.name, score)
            collected.values[key] = score.value
    if scores.details:
        collected.details[metric_key(scoring.name, family)] = scores.details
    collected.families.append(ScoredFamily(scoring=scoring.name, family=family, scores=scores))
    collected.items += [{"scoring": scoring.name, "family": family} | row for row in scores.items]


def _write(folder: Path, report: Report, collected: _Collected) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in collected.items)
    contents = (
        report.model_dump_json(indent=2).encode() + b"\n",
        report_text.markdown(report).encode("utf-8", "replace"),
        report_page(report, collected.families).encode("utf-8", "replace"),
        report_text.junit(report),
        rows.encode(),
    )
    write_files(folder, dict(zip(REPORT_FILES, contents, strict=True)))
