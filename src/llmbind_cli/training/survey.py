"""What the data of a recipe hold, as far as it can be told without training on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from llmbind_cli.data.mixture import Mixture
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.errors import InputDataError
from llmbind_cli.recipes.schema import BuiltDialogues, ConversationFiles, Recipe, TrainSection
from llmbind_cli.tokens import TaskToken, TokenTable
from llmbind_cli.training.rendering import Segment, segments_of_dialogue, segments_of_ids
from llmbind_cli.training.samples import load_samples
from llmbind_cli.training.sources import read_source, source_files

Source = ConversationFiles | BuiltDialogues

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
        tokens_mean: Mean length, in ids.
        tokens_longest: The greatest length.
    """

    name: str
    kind: str
    dialogues: int
    examined: int
    tokens_mean: float
    tokens_longest: int


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
    """

    sources: tuple[SourceSurvey, ...]
    lengths: Literal["measured", "estimated"]
    calls: dict[str, int]
    examples: tuple[Example, ...]
    problems: tuple[str, ...]
    epoch: int
    tokens_mean: float


@dataclass(kw_only=True)
class _Examined:
    """The dialogues of one source that were looked at."""

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
    surveys: list[SourceSurvey] = []
    weights: list[float | None] = []
    problems: list[str] = []
    calls: Counter[str] = Counter()
    shown: dict[str, Example] = {}
    for source in recipe.data:
        missing = [path for path in source_files(source) if not path.is_file()]
        problems += [f"{source.name}: {path} is missing" for path in missing]
        if missing:
            continue
        try:
            if table is None:
                seen = _estimated(_beginning(source), tokens)
            else:
                seen = _measured(_beginning(source), recipe.train, tokenizer, table)
        except InputDataError as error:
            problems.append(str(error))
            continue
        surveys.append(_summary(source, seen))
        weights.append(source.weight)
        calls.update(seen.calls)
        for task, segments in seen.firsts.items():
            shown.setdefault(task, Example(source=source.name, segments=segments))
    counts = _epoch_counts(surveys, weights, holdout=recipe.train.holdout)
    ids = sum(n * survey.tokens_mean for n, survey in zip(counts, surveys, strict=True))
    return DataSurvey(
        sources=tuple(surveys),
        lengths="estimated" if table is None else "measured",
        calls=dict(calls.most_common()),
        examples=tuple(shown.values())[:SHOWN],
        problems=tuple(problems),
        epoch=sum(counts),
        tokens_mean=ids / sum(counts) if counts else 0.0,
    )


def estimated_length(dialogue: Dialogue) -> int:
    """Estimate a dialogue's length in ids without its tokenizer.

    One id for each 4 characters, 8 for the frame of each turn, 32 for the template's opening.
    """
    characters = sum(len(turn.text) for turn in dialogue.turns)
    frame = TOKENS_PER_TURN * len(dialogue.turns) + TOKENS_PER_DIALOGUE
    return -(-characters // CHARACTERS_PER_TOKEN) + frame


def _beginning(source: Source) -> Source:
    if not isinstance(source, BuiltDialogues):
        return source
    return source.model_copy(update={"count": min(source.count, BUILT_SAMPLE)})


def _measured(source: Source, train: TrainSection, tokenizer: Any, table: TokenTable) -> _Examined:
    seen = _Examined()
    for sample in load_samples([source], tokenizer, table, train).samples:
        seen.add(len(sample.ids), sample.tasks, partial(segments_of_ids, sample, tokenizer, table))
    return seen


def _estimated(source: Source, tokens: Sequence[TaskToken]) -> _Examined:
    task_of = {token.open: token.task for token in tokens}
    openers = re.compile("|".join(map(re.escape, task_of)))
    seen = _Examined()
    for dialogue in read_source(source):
        said = " ".join(turn.text for turn in dialogue.turns if turn.role == "assistant")
        tasks = [task_of[opener] for opener in openers.findall(said)]
        seen.add(estimated_length(dialogue), tasks, partial(segments_of_dialogue, dialogue, tokens))
    if not seen.lengths:
        raise InputDataError(f"{source.name}: this data source holds no dialogue")
    return seen


def _summary(source: Source, seen: _Examined) -> SourceSurvey:
    examined = len(seen.lengths)
    return SourceSurvey(
        name=source.name,
        kind=source.kind,
        dialogues=source.count if isinstance(source, BuiltDialogues) else examined,
        examined=examined,
        tokens_mean=sum(seen.lengths) / examined,
        tokens_longest=max(seen.lengths),
    )


def _epoch_counts(
    surveys: Sequence[SourceSurvey], weights: Sequence[float | None], *, holdout: float
) -> list[int]:
    """Return how many dialogues an epoch has of each source, those held out left out."""
    if not surveys:
        return []
    given = [weight for weight in weights if weight is not None]
    held = [max(1, round(holdout * survey.dialogues)) if holdout else 0 for survey in surveys]
    sizes = [max(1, s.dialogues - h) for s, h in zip(surveys, held, strict=True)]
    return list(Mixture(sizes=sizes, weights=given or None, seed=0).counts)
