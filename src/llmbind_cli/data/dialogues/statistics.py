"""What a set of dialogues consists of, so that a one-sided one is seen before training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llmbind_cli.data.dialogues.ngrams import DistinctNgrams
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.data.spellings import ANY_SPELLING, tasks_called

LONGEST_NGRAM = 4


@dataclass(frozen=True, kw_only=True)
class DialogueStatistics:
    """Counts over a set of dialogues.

    Attributes:
        dialogues: Number of dialogues.
        turns: Number of user turns.
        lengths: User turns of a dialogue → dialogues.
        pictures: Dialogues with a picture attached.
        calls: Task → calls; ``talk`` counts replies without a call.
        several_calls: Replies with more than one call.
        cut_replies: Replies that are marked as cut.
        user_tags: Task tokens in user turns, where they are text.
        openings: The first three words of user turns, most frequent first, with their counts.
        distinct_openings: Number of different openings.
        ngrams: For n from 1 to 4, the different n-grams of user turns and all of them.
        duplicates: Share of dialogues whose turns all occurred before, in [0, 1].
    """

    dialogues: int
    turns: int
    lengths: dict[int, int]
    pictures: int
    calls: dict[str, int]
    several_calls: int
    cut_replies: int
    user_tags: int
    openings: tuple[tuple[str, int], ...]
    distinct_openings: int
    ngrams: tuple[tuple[int, int], ...]
    duplicates: float

    def distinct(self, n: int) -> float:
        """Return the share of different n-grams among all of user turns, in [0, 1]."""
        different, total = self.ngrams[n - 1]
        return different / total if total else 0.0

    def as_fields(self) -> dict[str, Any]:
        """Return the statistics as values of JSON."""
        fields = dataclasses.asdict(self)
        fields["ngrams"] = {
            str(n): {"distinct": different, "total": total, "share": round(self.distinct(n), 6)}
            for n, (different, total) in enumerate(self.ngrams, start=1)
        }
        return fields


class DialogueCensus:
    """Counts dialogues one by one, so that they need never be in memory together."""

    def __init__(self) -> None:
        self._lengths: Counter[int] = Counter()
        self._calls: Counter[str] = Counter()
        self._openings: Counter[str] = Counter()
        self._ngrams = DistinctNgrams(longest=LONGEST_NGRAM)
        self._seen: set[int] = set()
        self._pictures = self._several = self._cut = self._tags = 0

    def add(self, dialogue: Dialogue) -> None:
        """Count one dialogue."""
        self._seen.add(dialogue.fingerprint())
        self._lengths[len(dialogue.turns) // 2] += 1
        self._pictures += dialogue.image is not None
        for turn in dialogue.turns:
            if turn.role == "assistant":
                tasks = tasks_called(turn.text)
                self._calls.update(tasks or ["talk"])
                self._several += len(tasks) > 1
                self._cut += not turn.complete
                continue
            words = turn.text.lower().split()
            self._openings[" ".join(words[:3])] += 1
            self._ngrams.add(words)
            if "<" in turn.text:
                self._tags += len(ANY_SPELLING.findall(turn.text))

    def statistics(self, *, most_common: int = 20) -> DialogueStatistics:
        """Return what was counted so far.

        Args:
            most_common: How many openings to list.
        """
        dialogues = self._lengths.total()
        repeated = dialogues - len(self._seen)
        return DialogueStatistics(
            dialogues=dialogues,
            turns=self._openings.total(),
            lengths=dict(sorted(self._lengths.items())),
            pictures=self._pictures,
            calls=dict(self._calls.most_common()),
            several_calls=self._several,
            cut_replies=self._cut,
            user_tags=self._tags,
            openings=tuple(self._openings.most_common(most_common)),
            distinct_openings=len(self._openings),
            ngrams=tuple(self._ngrams.counts()),
            duplicates=repeated / dialogues if dialogues else 0.0,
        )


def describe(dialogues: Iterable[Dialogue], *, most_common: int = 20) -> DialogueStatistics:
    """Count tasks, lengths, openings, n-grams and repetitions.

    Args:
        dialogues: Any dialogues; each is looked at once.
        most_common: How many openings to list.
    """
    census = DialogueCensus()
    for dialogue in dialogues:
        census.add(dialogue)
    return census.statistics(most_common=most_common)
