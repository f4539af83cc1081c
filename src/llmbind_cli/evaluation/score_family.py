"""How one scoring is carried out: the metrics of one family, in one pass over its inputs.

What a family needs is imported once it is asked for; masks are scored without loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.errors import UsageError
from llmbind_cli.evaluation.cards import lines_card, requests_or_masks_card, set_card
from llmbind_cli.evaluation.mask_set import read_mask_set
from llmbind_cli.evaluation.media_set import MediaSet, pair_up, read_media_set
from llmbind_cli.evaluation.metric_table import (
    WITH_WORDS,
    WITHOUT_REFERENCES,
    Family,
    Metric,
)
from llmbind_cli.evaluation.prompts import read_prompts
from llmbind_cli.evaluation.report import DataCard
from llmbind_cli.evaluation.scores import FamilyScores
from llmbind_cli.evaluation.statistics_file import SUFFIX, StatisticsFile, read_statistics_file

if TYPE_CHECKING:
    from llmbind_cli.evaluation.network_scores import NetworkSettings
    from llmbind_cli.evaluation.run import EvalSettings, Scoring


def grouped(metrics: Sequence[Metric]) -> list[list[Metric]]:
    """Put metrics that are computed in one pass together: one family, network and kind of file."""
    groups: dict[tuple[str, ...], list[Metric]] = {}
    for metric in metrics:
        groups.setdefault((metric.family, metric.extractor or "", metric.medium), []).append(metric)
    return list(groups.values())


def score_family(
    scoring: Scoring, family: Family, metrics: list[Metric], settings: EvalSettings
) -> tuple[FamilyScores, DataCard, DataCard | None]:
    """Score one pair of inputs by the metrics of one family.

    Args:
        scoring: The inputs.
        family: That of the metrics.
        metrics: One group of :func:`grouped`.
        settings: What holds for the run.

    Returns:
        The scores, the card of the predictions, and that of the references if there are any.

    Raises:
        UsageError: References or words are needed and were not given.
        InputDataError: The inputs cannot be scored.
        ModelNotFoundError: Weights of an extractor are missing.
    """
    names, seed = [metric.name for metric in metrics], settings.seed
    if metrics[0].extractor is not None:
        return _network_scores(scoring, metrics, settings)
    if scoring.references is None:
        raise UsageError(f"--ref: is missing; {names[0]} compares with references")
    if family == "routing":
        from llmbind_cli.evaluation.routing_scores import score_routing

        scores = score_routing(scoring.predictions, scoring.references, seed=seed)
        return scores, lines_card(scoring.predictions), lines_card(scoring.references)
    if family == "emission":
        from llmbind_cli.evaluation.emission_scores import score_emission

        scores = score_emission(scoring.predictions, scoring.references, seed=seed)
        return (
            scores,
            requests_or_masks_card(scoring.predictions),
            requests_or_masks_card(scoring.references),
        )
    if family == "answers":
        from llmbind_cli.evaluation.answer_scores import score_answers

        scores = score_answers(scoring.predictions, scoring.references, seed=seed)
        return scores, lines_card(scoring.predictions), lines_card(scoring.references)
    if family == "masks":
        from llmbind_cli.evaluation.mask_scores import score_masks

        masks = read_mask_set(scoring.predictions), read_mask_set(scoring.references)
        scores = score_masks(
            *masks, ignore_label=scoring.ignore_label, compat=scoring.compat, seed=seed
        )
        return scores, set_card(masks[0]), set_card(masks[1])
    made = _read_predictions(scoring)
    from llmbind_cli.evaluation.paired_scores import score_pictures

    others = read_media_set(scoring.references)
    scores = score_pictures(pair_up(made, others), metrics=names, seed=seed)
    _tell_choice(scores, made, scoring)
    return scores, set_card(made), set_card(others)


def _network_scores(
    scoring: Scoring, metrics: list[Metric], settings: EvalSettings
) -> tuple[FamilyScores, DataCard, DataCard | None]:
    from llmbind_cli.evaluation.network_scores import score_by_network

    family = metrics[0].family
    made = _read_predictions(scoring)
    true: MediaSet | StatisticsFile | None = None
    if family not in WITHOUT_REFERENCES and scoring.references is not None:
        is_distance = family == "features"
        true = (_read_references if is_distance else read_media_set)(scoring.references)
    prompts = None
    if family in WITH_WORDS:
        prompts = read_prompts(
            scoring.prompts, scoring.predictions, first_of_each=scoring.first_of_each
        )
    scores = score_by_network(
        metrics,
        made,
        true,
        prompts,
        network_settings(settings),
        save_statistics=settings.save_statistics if family == "features" else None,
    )
    _tell_choice(scores, made, scoring)
    return scores, set_card(made), set_card(true) if true is not None else None


def _read_predictions(scoring: Scoring) -> MediaSet:
    return read_media_set(scoring.predictions, first_of_each=scoring.first_of_each)


def _tell_choice(scores: FamilyScores, made: MediaSet, scoring: Scoring) -> None:
    """Say that the first file of each request alone was scored, and where there were more."""
    if not scoring.first_of_each:
        return
    scores.parameters["first_of_each"] = True
    if made.left_out:
        note = f"of {len(made.left_out)} of {len(made.files)} requests the first file alone"
        scores.scores = {
            name: replace(score, notes=(*score.notes, note))
            for name, score in scores.scores.items()
        }


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


def _read_references(path: Path) -> MediaSet | StatisticsFile:
    """Read references that are compared by their features: files, or a ``.npz`` of statistics.

    Raises:
        InputDataError: They are missing or cannot be read.
    """
    if path.is_file() and path.suffix == SUFFIX:
        return read_statistics_file(path)
    return read_media_set(path)
