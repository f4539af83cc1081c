"""One run of ``llmbind eval``: scorings → figures → report → gates.

Scoring reads files and never needs the model that made them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbind_cli import __version__
from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, UsageError
from llmbind_cli.evaluation import processes, report_text
from llmbind_cli.evaluation.features import ExtractionSettings
from llmbind_cli.evaluation.gate import Gate, check_gates, raise_if_failed, require_figures
from llmbind_cli.evaluation.mask_set import MaskSet, read_mask_set
from llmbind_cli.evaluation.media_set import (
    MediaSet,
    count_items,
    json_lines,
    pair_up,
    read_media_set,
)
from llmbind_cli.evaluation.metric_table import (
    WITH_WORDS,
    WITHOUT_REFERENCES,
    Family,
    Metric,
    find_metrics,
    with_extrapolations,
)
from llmbind_cli.evaluation.prompts import read_prompts
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
from llmbind_cli.evaluation.report_folder import prepare_folder, write_files
from llmbind_cli.evaluation.report_page import ScoredFamily, report_page
from llmbind_cli.evaluation.scores import FamilyScores
from llmbind_cli.evaluation.statistics_file import SUFFIX, StatisticsFile, read_statistics_file
from llmbind_cli.metrics.iou import Compat
from llmbind_cli.weights.hashes import sha256_file

if TYPE_CHECKING:
    from llmbind_cli.evaluation.network_scores import NetworkSettings

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
    found = [(scoring, find_metrics(_names(scoring, settings))) for scoring in scorings]
    require_figures(
        gates, (metric_key(scoring.name, m.name) for scoring, metrics in found for m in metrics)
    )
    _require_fitting(found, settings)
    if settings.report is not None and processes.is_first():
        prepare_folder(settings.report)
    for scoring in scorings:
        _require_samples(scoring)
    collected = _Collected()
    for scoring, metrics in found:
        for group in grouped(metrics):
            _score(scoring, group[0].family, group, settings, collected)
    if not processes.is_first():
        gates = []
    collected.details |= _contrasts(scorings, collected, settings)
    results = check_gates(gates, collected.values)
    report = Report(
        protocol=_protocol(settings, collected.cards),
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


def _require_samples(scoring: Scoring) -> None:
    """Refuse another number of predictions than the protocol has, before they are scored."""
    if scoring.samples is None:
        return
    count = count_items(scoring.predictions)
    if count is not None and count != scoring.samples:
        raise InputDataError(
            f"{scoring.predictions}: holds {count} predictions, and the protocol of "
            f"{scoring.name} has {scoring.samples}"
        )


def _contrasts(
    scorings: Sequence[Scoring], collected: _Collected, settings: EvalSettings
) -> dict[str, Any]:
    """Subtract the figures of one scoring from those of another that names it."""
    from llmbind_cli.evaluation.comparison import contrast

    found = {}
    for scoring in scorings:
        for metric in scoring.metrics if scoring.minus else ():
            keys = metric_key(scoring.minus, metric), metric_key(scoring.name, metric)
            if all(key in collected.entries for key in keys):
                difference = contrast(keys, collected.entries, collected.items, seed=settings.seed)
                found[f"{keys[1]} − {keys[0]}"] = difference.model_dump(mode="json")
    details: dict[str, Any] = {"differences": found} if found else {}
    return details | ({"benchmark": dict(settings.benchmark)} if settings.benchmark else {})


def _names(scoring: Scoring, settings: EvalSettings) -> Sequence[str]:
    return with_extrapolations(scoring.metrics) if settings.extrapolate else scoring.metrics


def _require_fitting(
    found: Sequence[tuple[Scoring, Sequence[Metric]]], settings: EvalSettings
) -> None:
    """Refuse options that no metric takes."""
    for scoring, metrics in found:
        for flag, value in (("--ignore-label", scoring.ignore_label), ("--compat", scoring.compat)):
            if value is not None and all(m.family != "masks" for m in metrics):
                raise UsageError(f"{flag} is for masks; {metrics[0].name} takes none")
        needing = [m.name for m in metrics if m.family not in WITHOUT_REFERENCES]
        if needing and scoring.references is None:
            raise UsageError(f"--ref: is missing; {needing[0]} compares with references")
        if not needing and scoring.references is not None:
            raise UsageError(f"--ref: {metrics[0].name} takes no references")
        if scoring.prompts is not None and all(m.family not in WITH_WORDS for m in metrics):
            raise UsageError(f"--prompts: {metrics[0].name} takes no words")
    if settings.save_statistics is not None:
        families = [metric.family for _, metrics in found for metric in metrics]
        if len(found) != 1 or "features" not in families:
            raise UsageError("--save-stats: needs one scoring by features, such as a distance")


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
            prompts=_prompts_card(scoring, family),
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
    collected.families.append(ScoredFamily(scoring=scoring.name, family=family, scores=scores))
    collected.items += [{"scoring": scoring.name, "family": family} | row for row in scores.items]


def _family_scores(
    scoring: Scoring, family: Family, metrics: list[Metric], settings: EvalSettings
) -> tuple[FamilyScores, DataCard, DataCard | None]:
    names, seed = [metric.name for metric in metrics], settings.seed
    if metrics[0].extractor is not None:
        return _network_scores(scoring, metrics, settings)
    if scoring.references is None:
        raise UsageError(f"--ref: is missing; {names[0]} compares with references")
    if family == "routing":
        from llmbind_cli.evaluation.routing_scores import score_routing

        scores = score_routing(scoring.predictions, scoring.references, seed=seed)
        return scores, _lines_card(scoring.predictions), _lines_card(scoring.references)
    if family == "emission":
        from llmbind_cli.evaluation.emission_scores import score_emission

        scores = score_emission(scoring.predictions, scoring.references, seed=seed)
        return scores, _any_card(scoring.predictions), _any_card(scoring.references)
    if family == "masks":
        from llmbind_cli.evaluation.mask_scores import score_masks

        masks = read_mask_set(scoring.predictions), read_mask_set(scoring.references)
        scores = score_masks(
            *masks, ignore_label=scoring.ignore_label, compat=scoring.compat, seed=seed
        )
        return scores, _set_card(masks[0]), _set_card(masks[1])
    made = read_media_set(scoring.predictions)
    from llmbind_cli.evaluation.paired_scores import score_pictures

    others = read_media_set(scoring.references)
    scores = score_pictures(pair_up(made, others), metrics=names, seed=seed)
    return scores, _set_card(made), _set_card(others)


def grouped(metrics: Sequence[Metric]) -> list[list[Metric]]:
    """Put metrics that are computed in one pass together: one family, network and kind of file."""
    groups: dict[tuple[str, ...], list[Metric]] = {}
    for metric in metrics:
        groups.setdefault((metric.family, metric.extractor or "", metric.medium), []).append(metric)
    return list(groups.values())


def _network_scores(
    scoring: Scoring, metrics: list[Metric], settings: EvalSettings
) -> tuple[FamilyScores, DataCard, DataCard | None]:
    from llmbind_cli.evaluation.network_scores import score_by_network

    family = metrics[0].family
    made = read_media_set(scoring.predictions)
    true: MediaSet | StatisticsFile | None = None
    if family not in WITHOUT_REFERENCES and scoring.references is not None:
        is_distance = family == "features"
        true = (read_references if is_distance else read_media_set)(scoring.references)
    prompts = None
    if family in WITH_WORDS:
        prompts = read_prompts(scoring.prompts, scoring.predictions)
    scores = score_by_network(
        metrics,
        made,
        true,
        prompts,
        network_settings(settings),
        save_statistics=settings.save_statistics if family == "features" else None,
    )
    return scores, _set_card(made), _set_card(true) if true is not None else None


def network_settings(settings: EvalSettings) -> NetworkSettings:
    """Return what a network needs of the settings of a run."""
    from llmbind_cli.evaluation.network_scores import NetworkSettings

    return NetworkSettings(
        weights=settings.weights,
        device=settings.device,
        offline=settings.offline,
        extraction=settings.extraction,
        splits=settings.splits,
        seed=settings.seed,
    )


def save_statistics(metrics: Sequence[str], references: Path, settings: EvalSettings) -> None:
    """Write the statistics of references alone, as ``--save-stats`` without ``--pred``.

    Args:
        metrics: One or more by the features of one extractor.
        references: Folder or manifest.
        settings: Where to, and how to extract.

    Raises:
        UsageError: A metric is none by features.
        LlmbindError: As :func:`run_eval`.
    """
    from llmbind_cli.evaluation.feature_scores import save_reference_statistics
    from llmbind_cli.evaluation.network_scores import feature_source

    found = find_metrics(metrics)
    for metric in found:
        if metric.family != "features":
            raise UsageError(f"--save-stats: {metric.name} takes no features")
    if len(groups := grouped(found)) > 1:
        names = ", ".join(group[0].name for group in groups)
        raise UsageError(f"--save-stats: {names} have different networks; give those of one")
    if settings.save_statistics is not None:
        with ExitStack() as stack:
            source = feature_source(found[0], network_settings(settings), stack)
            save_reference_statistics(read_media_set(references), source, settings.save_statistics)
        console.log(f"statistics in {settings.save_statistics}")


def read_references(path: Path) -> MediaSet | StatisticsFile:
    """Read references that are compared by their features: files, or a ``.npz`` of statistics.

    Raises:
        InputDataError: They are missing or cannot be read.
    """
    if path.is_file() and path.suffix == SUFFIX:
        return read_statistics_file(path)
    return read_media_set(path)


def _protocol(settings: EvalSettings, cards: list[ScoringCard]) -> Protocol:
    recipe = settings.recipe
    return Protocol(
        llmbind=__version__,
        seed=settings.seed,
        recipe=RecipeCard(path=clean(str(recipe)), sha256=sha256_file(recipe)) if recipe else None,
        interval=IntervalCard(),
        scorings=cards,
    )


def _set_card(side: MediaSet | MaskSet | StatisticsFile) -> DataCard:
    path, digest = clean(side.path), side.sha256
    if isinstance(side, StatisticsFile):
        return DataCard(path=path, kind="statistics", sha256=digest, count=side.n)
    count = len(side.items if isinstance(side, MaskSet) else side.files)
    return DataCard(path=path, kind=side.kind, sha256=digest, count=count)


def _any_card(path: Path) -> DataCard:
    """The card of requests or manifests, whose lines are what counts, or of a set of masks."""
    return _lines_card(path) if path.suffix == ".jsonl" else _set_card(read_mask_set(path))


def _prompts_card(scoring: Scoring, family: Family) -> DataCard | None:
    if family not in WITH_WORDS:
        return None
    prompts = read_prompts(scoring.prompts, scoring.predictions)
    count = len(prompts.words)
    return DataCard(path=clean(prompts.path), kind="lines", sha256=prompts.sha256, count=count)


def _lines_card(path: Path) -> DataCard:
    count = len({fields["id"] for _, fields in json_lines(path)})
    return DataCard(path=clean(str(path)), kind="lines", sha256=sha256_file(path), count=count)


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
