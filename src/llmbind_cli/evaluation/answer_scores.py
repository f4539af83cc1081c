"""How often a question is answered in words exactly as it should be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.media_set import (
    json_lines,
    normalised,
    require_same_ids,
    require_unique_ids,
    result_lines,
)
from llmbind_cli.evaluation.scores import FamilyScores, Panel, Score, interval_of

_ARTICLES = frozenset({"a", "an", "the"})
_WITHIN = "'-"
"""What belongs to a word inside of it, as in ``it's`` and ``t-shirt``, and not at its ends."""
_PUNCTUATION = re.compile(rf"[^\w\s{_WITHIN}]")


def score_answers(predictions: Path, references: Path, *, seed: int) -> FamilyScores:
    """Score replies by the answers that count as right.

    Args:
        predictions: A manifest, a folder with one, or lines of ``--plan``; each with its ``reply``.
        references: Lines with ``id`` and ``answer``, a text or a list of texts.
        seed: Of the bootstrap.

    Raises:
        InputDataError: A line tells of a failure or lacks what is compared, ids differ, references
            share one, or there is none.
    """
    replies, answers = _replies(predictions), _answers(references)
    require_same_ids(str(predictions), replies, str(references), answers)
    rows = [
        {
            "id": item,
            "reply": replies[item],
            "answer": answers[item][0],
            "right": words_of(replies[item]) in map(words_of, answers[item]),
        }
        for item in sorted(answers)
    ]
    right = [bool(row["right"]) for row in rows]
    score = Score(
        value=sum(right) / len(right), n=len(right), interval=interval_of(right, seed=seed)
    )
    shown = {row["id"]: row for row in rows}
    return FamilyScores(
        scores={"exact_match": score},
        items=rows,
        preprocessing="lower case, without articles and punctuation",
        show=lambda item: [
            Panel(caption="reply", words=str(shown[item]["reply"])),
            Panel(caption="answer", words=str(shown[item]["answer"])),
        ],
    )


def words_of(text: str) -> tuple[str, ...]:
    """Return what is compared of an answer: its words in lower case, without articles."""
    words = (word.strip(_WITHIN) for word in _PUNCTUATION.sub(" ", text.lower()).split())
    return tuple(word for word in words if word and word not in _ARTICLES)


def _replies(path: Path) -> dict[str, str]:
    replies: dict[str, str] = {}
    faults = FaultList(place=str(path))
    for place, fields in result_lines(path, scored="answers"):
        if not isinstance(fields.get("reply"), str):
            faults.add(f"{place}: {fields['id']} has no reply, status {fields.get('status')}")
            continue
        replies[normalised(fields["id"])] = fields["reply"]
    faults.raise_if_any()
    return replies


def _answers(path: Path) -> dict[str, list[str]]:
    answers = [
        (normalised(fields["id"]), _texts(fields.get("answer"), place))
        for place, fields in json_lines(path)
    ]
    if not answers:
        raise InputDataError(f"{path}: holds no line to score")
    require_unique_ids(path, (item for item, _ in answers))
    return dict(answers)


def _texts(value: Any, place: str) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and words_of(text) for text in texts):
        raise InputDataError(f'{place}: "answer" must be a text or a list of texts, got {value!r}')
    return texts
