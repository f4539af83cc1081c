"""What a set of dialogues consists of, so that a one-sided one is seen before training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from llmbind_cli.data.sample import Dialogue
from llmbind_cli.tokens import TASK_TOKENS

_TASKS = {token.open: token.task for token in TASK_TOKENS}
_OPENER = re.compile("|".join(map(re.escape, _TASKS)))


@dataclass(frozen=True, kw_only=True)
class DialogueStatistics:
    """Counts over a set of dialogues.

    Attributes:
        dialogues: Number of dialogues.
        turns: Number of user turns.
        calls: Task → calls; ``talk`` counts replies without a call.
        several_calls: Replies with more than one call.
        openings: The first three words of user turns, most frequent first, with their counts.
        distinct_openings: Number of different openings.
        distinct_bigrams: Different word pairs in user turns over all word pairs, in [0, 1].
        duplicates: Share of dialogues whose turns all occurred before, in [0, 1].
    """

    dialogues: int
    turns: int
    calls: dict[str, int]
    several_calls: int
    openings: tuple[tuple[str, int], ...]
    distinct_openings: int
    distinct_bigrams: float
    duplicates: float


def describe(dialogues: Iterable[Dialogue], *, most_common: int = 20) -> DialogueStatistics:
    """Count tasks, openings, word pairs and repetitions.

    Args:
        dialogues: Any dialogues; each is looked at once.
        most_common: How many openings to list.
    """
    count = turns = several = pairs = repeated = 0
    calls: Counter[str] = Counter()
    openings: Counter[str] = Counter()
    bigrams: set[tuple[str, str]] = set()
    seen: set[int] = set()
    for dialogue in dialogues:
        count += 1
        key = hash(tuple(turn.text for turn in dialogue.turns))
        repeated += key in seen
        seen.add(key)
        for turn in dialogue.turns:
            if turn.role == "assistant":
                found = [_TASKS[opener] for opener in _OPENER.findall(turn.text)]
                calls.update(found or ["talk"])
                several += len(found) > 1
                continue
            turns += 1
            words = turn.text.lower().split()
            openings[" ".join(words[:3])] += 1
            pairs += max(0, len(words) - 1)
            bigrams.update(pairwise(words))
    return DialogueStatistics(
        dialogues=count,
        turns=turns,
        calls=dict(calls.most_common()),
        several_calls=several,
        openings=tuple(openings.most_common(most_common)),
        distinct_openings=len(openings),
        distinct_bigrams=len(bigrams) / pairs if pairs else 0.0,
        duplicates=repeated / count if count else 0.0,
    )
