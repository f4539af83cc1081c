"""Classes that a picture has nothing of, for questions whose answer is no."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

ASKED = 2
"""Absent classes that are asked about in each picture."""

_SHARED_WORDS = frozenset({"other", "of", "the", "a"})


def absent_names(frequent: Sequence[str], present: Collection[str], picture: str) -> list[str]:
    """Draw classes that a picture has nothing of, frequent ones more often.

    A class that shares a word with a present one is never drawn: where there is a "table", whether
    there is a "dining table" is not for a class list to say.

    Args:
        frequent: All classes, most frequent first.
        present: Classes of the picture.
        picture: Name of the picture; the same name gives the same classes.

    Returns:
        Up to ``ASKED`` of them.
    """
    words = {word for name in present for word in name.lower().replace("-", " ").split()}
    words -= _SHARED_WORDS
    candidates = [
        name
        for name in frequent
        if name not in present and not words.intersection(name.lower().replace("-", " ").split())
    ]
    rng = Random(f"absent/{picture}")
    weights = [1 / (rank + 2) for rank in range(len(candidates))]
    drawn: dict[str, None] = {}
    for _ in range(ASKED if candidates else 0):
        drawn.setdefault(rng.choices(candidates, weights)[0])
    return list(drawn)
