"""The cards of a report: which inputs were scored, how, and under which protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmbind_cli import __version__
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.mask_set import MaskSet, read_mask_set
from llmbind_cli.evaluation.media_set import MediaSet, digest_of, json_lines, manifests_of
from llmbind_cli.evaluation.metric_table import Metric
from llmbind_cli.evaluation.prompts import read_prompts
from llmbind_cli.evaluation.report import (
    Backbone,
    DataCard,
    IntervalCard,
    MetricCard,
    Protocol,
    RecipeCard,
    ScoringCard,
    clean,
)
from llmbind_cli.evaluation.scores import FamilyScores
from llmbind_cli.evaluation.statistics_file import StatisticsFile
from llmbind_cli.weights.hashes import sha256_file


def set_card(side: MediaSet | MaskSet | StatisticsFile) -> DataCard:
    """Return the card of inputs that have been read."""
    path, digest = clean(side.path), side.sha256
    if isinstance(side, StatisticsFile):
        return DataCard(path=path, kind="statistics", sha256=digest, count=side.n)
    count = len(side.items if isinstance(side, MaskSet) else side.files)
    return DataCard(path=path, kind=side.kind, sha256=digest, count=count)


def lines_card(path: Path) -> DataCard:
    """Return the card of JSON lines, which count by their ids: a file, or a folder's manifests.

    Raises:
        InputDataError: They cannot be read.
    """
    files = [path] if path.is_file() else manifests_of(path)
    count = len({fields["id"] for file in files for _, fields in json_lines(file)})
    digests = {file.name: sha256_file(file) for file in files}
    digest = digest_of(digests) if len(digests) > 1 else "".join(digests.values())
    return DataCard(path=clean(str(path)), kind="lines", sha256=digest, count=count)


def requests_or_masks_card(path: Path) -> DataCard:
    """Return the card of requests or manifests, whose lines are what counts, or of masks.

    Raises:
        InputDataError: They cannot be read.
    """
    if path.suffix == ".jsonl":
        try:
            return lines_card(path)
        except InputDataError:  # COCO's masks may have numbers for ids, or none of their own
            pass
    return set_card(read_mask_set(path))


def prompts_card(
    prompts: Path | None, predictions: Path, *, first_of_each: bool = False
) -> DataCard:
    """Return the card of the words that media are scored by.

    Args:
        prompts: File of words; ``None``: those of the predictions' manifest.
        predictions: Folder or manifest.
        first_of_each: Of several lines that a manifest has of an id, take the first.

    Raises:
        InputDataError: They are missing or cannot be read.
    """
    words = read_prompts(prompts, predictions, first_of_each=first_of_each)
    count = len(words.words)
    return DataCard(path=clean(words.path), kind="lines", sha256=words.sha256, count=count)


def scoring_card(
    name: str | None,
    metrics: Sequence[Metric],
    scores: FamilyScores,
    *,
    predictions: DataCard,
    references: DataCard | None,
    prompts: DataCard | None,
) -> ScoringCard:
    """Return how the figures of one pair of inputs came about.

    Args:
        name: Of the scoring; ``None`` on the command line.
        metrics: Those that were taken.
        scores: What they gave.
        predictions: Card of what was made.
        references: Card of what is true, or ``None``.
        prompts: Card of the words, or ``None``.
    """
    return ScoringCard(
        name=name,
        metrics=[MetricCard(name=m.name, definition=m.definition) for m in metrics],
        predictions=predictions,
        references=references,
        prompts=prompts,
        preprocessing=scores.preprocessing,
        backbone=Backbone(**scores.backbone) if scores.backbone else None,
        parameters=scores.parameters,
    )


def protocol_card(recipe: Path | None, seed: int, scorings: list[ScoringCard]) -> Protocol:
    """Return the protocol of a run.

    Args:
        recipe: The recipe that the scorings come from, or ``None``.
        seed: Of intervals and subsets.
        scorings: Their cards.
    """
    return Protocol(
        llmbind=__version__,
        seed=seed,
        recipe=RecipeCard(path=clean(str(recipe)), sha256=sha256_file(recipe)) if recipe else None,
        interval=IntervalCard(),
        scorings=scorings,
    )
