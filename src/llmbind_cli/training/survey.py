"""What the data of a recipe hold, as far as it can be told without training on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from llmbind_cli.data.mixture import Mixture
from llmbind_cli.data.sample import Dialogue, Sample
from llmbind_cli.errors import InputDataError
from llmbind_cli.recipes.dialogue_schema import BuiltDialogues
from llmbind_cli.recipes.picture_schema import SceneSource
from llmbind_cli.recipes.schema import Recipe, Source, TrainSection
from llmbind_cli.tokens import TaskToken, TokenTable
from llmbind_cli.training.overlap import (
    SharedPicture,
    UsedPictures,
    overlap_message,
    shared_pictures,
)
from llmbind_cli.training.picture_survey import (
    EvaluationSurvey,
    PicturedSamples,
    beginning,
    survey_evaluation,
)
from llmbind_cli.training.rendering import Segment, segments_of_dialogue, segments_of_ids
from llmbind_cli.training.samples import encoded_samples
from llmbind_cli.training.sources import SourceReader, read_source, source_files

BUILT_SAMPLE = 2000
"""Built dialogues that are looked at: each follows from its number, so the first stand for all."""

SHOWN = 3
"""Dialogues that are shown."""

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_TURN = 8
TOKENS_PER_DIALOGUE = 32


@dataclass(frozen=True, kw_only=True)
class Example:
    """One dialogue to show.

    Attributes:
        source: Name of its source.
        segments: Its text with the loss mask.
    """

    source: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class SourceSurvey:
    """What one source holds.

    Attributes:
        name: Its name in the recipe.
        kind: Its kind.
        dialogues: Number of dialogues.
        examined: How many of them were looked at.
        tokens_mean: Mean length, in ids, those that pictures take left out.
        tokens_longest: The greatest length, likewise.
        share: Its share of an epoch, in [0, 1].
        pictures: Different pictures in the dialogues looked at.
        masks: Masks in them.
        skipped: Pictures left out because they are missing.
        dropped: Dialogues left out because evaluation has their picture.
    """

    name: str
    kind: str
    dialogues: int
    examined: int
    tokens_mean: float
    tokens_longest: int
    share: float = 0.0
    pictures: int = 0
    masks: int = 0
    skipped: int = 0
    dropped: int = 0


@dataclass(frozen=True, kw_only=True)
class DataSurvey:
    """What all sources hold.

    Attributes:
        sources: Those that could be read.
        lengths: ``measured`` with the base's tokenizer, or ``estimated`` from characters.
        calls: Task → calls in the dialogues looked at; ``text`` counts dialogues without one.
        examples: Dialogues to show, of different tasks where there are such.
        problems: What is missing or malformed, one line each.
        epoch: Dialogues in an epoch of the sources that could be read, weights applied and those
            held out left out.
        tokens_mean: Mean length over such an epoch, in ids; 0 where nothing could be read.
        evaluation: The sources that the result will be scored on.
        shared: Pictures that both training and evaluation have.
        overlap: What follows from them: ``error``, ``drop`` or ``allow``.
        samples: Name of a source, and one of its first samples to look at.
    """

    sources: tuple[SourceSurvey, ...]
    lengths: Literal["measured", "estimated"]
    calls: dict[str, int]
    examples: tuple[Example, ...]
    problems: tuple[str, ...]
    epoch: int
    tokens_mean: float
    evaluation: tuple[EvaluationSurvey, ...] = ()
    shared: tuple[SharedPicture, ...] = ()
    overlap: str = "error"
    samples: tuple[tuple[str, Sample], ...] = ()


@dataclass(kw_only=True)
class _Examined:
    """The dialogues of one source that were looked at."""

    name: str
    pictured: PicturedSamples
    used: UsedPictures

    lengths: list[int] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, tuple[Segment, ...]] = field(default_factory=dict)

    def add(
        self, length: int, tasks: Sequence[str], segments: Callable[[], tuple[Segment, ...]]
    ) -> None:
        """Count one dialogue; the first of each task is kept to be shown."""
        self.lengths.append(length)
        self.calls.update(tasks or ("text",))
        first = tasks[0] if tasks else "text"
        if first not in self.firsts:
            self.firsts[first] = segments()

    def look_at(self, dialogue: Dialogue) -> None:
        """Note the pictures and masks of a dialogue; the first samples are kept to be shown."""
        if isinstance(dialogue, Sample):
            self.pictured.add(dialogue)
            self.used.add(dialogue.pictures, self.name)


def survey_data(
    recipe: Recipe, tokens: Sequence[TaskToken], *, tokenizer: Any, table: TokenTable | None
) -> DataSurvey:
    """Read every source, as far as it can be read, and say what is wrong with the rest.

    Files are read whole; of built dialogues the first :data:`BUILT_SAMPLE` stand for all.

    Args:
        recipe: The recipe.
        tokens: Its task tokens.
        tokenizer: The base's tokenizer with the task tokens, or ``None`` to estimate lengths.
        table: The token table of that tokenizer.
    """
    evaluation, evaluated, problems = survey_evaluation(recipe.evaluation)
    dropped = evaluated.by_key if recipe.overlap == "drop" else ()
    trained = UsedPictures()
    surveys: list[SourceSurvey] = []
    weights: list[float] = []
    calls: Counter[str] = Counter()
    shown: dict[str, Example] = {}
    samples = [sample for one in evaluation for sample in one.samples]
    shares = recipe.shares()
    for number, source in enumerate(recipe.data):
        missing = [path for path in source_files(source) if not path.is_file()]
        problems += [f"{source.name}: {path} is missing" for path in missing]
        if missing:
            continue
        seen = _Examined(name=source.name, pictured=PicturedSamples(source.name), used=trained)
        try:
            reader = read_source(beginning(source, BUILT_SAMPLE), left_out=dropped)
            if table is None:
                _estimate(reader, tokens, seen)
            else:
                _measure(reader, recipe.train, tokenizer, table, seen)
        except InputDataError as error:
            problems.append(str(error))
            continue
        surveys.append(_summary(source, seen, reader))
        if shares is not None:
            weights.append(shares[number])
        calls.update(seen.calls)
        samples += seen.pictured.samples
        for task, segments in seen.firsts.items():
            shown.setdefault(task, Example(source=source.name, segments=segments))
    counts = _epoch_counts(surveys, weights, holdout=recipe.train.holdout)
    ids = sum(n * survey.tokens_mean for n, survey in zip(counts, surveys, strict=True))
    shared = tuple(shared_pictures(trained, evaluated))
    if shared and recipe.overlap != "allow":
        problems.append(overlap_message(shared))
    epoch = sum(counts)
    return DataSurvey(
        sources=tuple(
            replace(survey, share=n / epoch) for n, survey in zip(counts, surveys, strict=True)
        ),
        lengths="estimated" if table is None else "measured",
        calls=dict(calls.most_common()),
        examples=tuple(shown.values())[:SHOWN],
        problems=tuple(problems),
        epoch=epoch,
        tokens_mean=ids / epoch if epoch else 0.0,
        evaluation=tuple(one.survey for one in evaluation),
        shared=shared,
        overlap=recipe.overlap,
        samples=tuple(samples),
    )


def estimated_length(dialogue: Dialogue) -> int:
    """Estimate a dialogue's length in ids without its tokenizer.

    One id for each 4 characters, 8 for the frame of each turn, 32 for the template's opening.
    """
    characters = sum(len(turn.text) for turn in dialogue.turns)
    frame = TOKENS_PER_TURN * len(dialogue.turns) + TOKENS_PER_DIALOGUE
    return -(-characters // CHARACTERS_PER_TOKEN) + frame


def _measure(
    reader: SourceReader,
    train: TrainSection,
    tokenizer: Any,
    table: TokenTable,
    seen: _Examined,
) -> None:
    for sample in encoded_samples(reader, tokenizer, table, train, look_at=seen.look_at):
        seen.add(len(sample.ids), sample.tasks, partial(segments_of_ids, sample, tokenizer, table))
    _require(seen)


def _estimate(reader: SourceReader, tokens: Sequence[TaskToken], seen: _Examined) -> None:
    task_of = {token.open: token.task for token in tokens}
    openers = re.compile("|".join(map(re.escape, task_of)))
    for dialogue in reader:
        seen.look_at(dialogue)
        said = " ".join(turn.text for turn in dialogue.turns if turn.role == "assistant")
        tasks = [task_of[opener] for opener in openers.findall(said)]
        seen.add(estimated_length(dialogue), tasks, partial(segments_of_dialogue, dialogue, tokens))
    _require(seen)


def _require(seen: _Examined) -> None:
    if not seen.lengths:
        raise InputDataError(f"{seen.name}: this data source holds no dialogue")


def _summary(source: Source, seen: _Examined, reader: SourceReader) -> SourceSurvey:
    examined = len(seen.lengths)
    return SourceSurvey(
        name=source.name,
        kind=source.kind,
        dialogues=source.count if isinstance(source, BuiltDialogues | SceneSource) else examined,
        examined=examined,
        tokens_mean=sum(seen.lengths) / examined,
        tokens_longest=max(seen.lengths),
        pictures=len(seen.pictured.keys),
        masks=seen.pictured.masks,
        skipped=reader.skipped,
        dropped=reader.dropped,
    )


def _epoch_counts(
    surveys: Sequence[SourceSurvey], weights: Sequence[float], *, holdout: float
) -> list[int]:
    """Return how many dialogues an epoch has of each source, those held out left out."""
    if not surveys:
        return []
    held = [max(1, round(holdout * survey.dialogues)) if holdout else 0 for survey in surveys]
    sizes = [max(1, s.dialogues - h) for s, h in zip(surveys, held, strict=True)]
    return list(Mixture(sizes=sizes, weights=list(weights) or None, seed=0).counts)
