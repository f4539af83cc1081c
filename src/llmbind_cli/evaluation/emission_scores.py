"""How often a mask is made where one was asked for, and how often where none was.

LISA and GLaMM hand the model the answer with its mask token and score the mask alone; whether the
model would have asked for one is never looked at. These two rates look at that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.mask_set import read_mask_set
from llmbind_cli.evaluation.media_set import (
    json_lines,
    normalised,
    require_same_ids,
    require_unique_ids,
    result_lines,
)
from llmbind_cli.evaluation.scores import FamilyScores, Score, interval_of

_SEGMENT = "segment"
_STATUSES = ("ok", "empty")


def score_emission(predictions: Path, references: Path, *, seed: int) -> FamilyScores:
    """Score whether masks were made.

    Args:
        predictions: A manifest, a folder with one, or lines of ``--plan``: a line of the status
            ``ok`` and the task ``segment`` is a mask, one of the status ``empty`` is none.
        references: Requests, each with its ``task`` or ``tasks``; or masks, all of which were asked
            for.
        seed: Of the bootstrap.

    Raises:
        InputDataError: A line tells of a failure, ids differ, references share one, or there
            is none.
    """
    emitted = _emitted(predictions)
    expected = _expected(references)
    require_same_ids(str(predictions), emitted, str(references), expected)
    rows = [
        {"id": item, "expected": expected[item], "emitted": emitted[item]}
        for item in sorted(expected)
    ]
    scores = {}
    for name, wanted in (("emission_rate", True), ("false_emission_rate", False)):
        made = [bool(row["emitted"]) for row in rows if row["expected"] is wanted]
        if made:  # there may be no request of the one kind
            scores[name] = Score(
                value=sum(made) / len(made), n=len(made), interval=interval_of(made, seed=seed)
            )
    return FamilyScores(
        scores=scores,
        items=rows,
        preprocessing="a request is answered with a mask if any call of its reply made one",
    )


def _emitted(path: Path) -> dict[str, bool]:
    emitted: dict[str, bool] = {}
    faults = FaultList(place=str(path))
    for place, fields in result_lines(path, scored="emission"):
        status = fields.get("status")
        if status not in _STATUSES:
            faults.add(f"{place}: {fields['id']} has the status {status}")
            continue
        item = normalised(fields["id"])
        made = status == "ok" and fields.get("task") == _SEGMENT
        emitted[item] = made or emitted.get(item, False)
    faults.raise_if_any()
    return emitted


def _expected(path: Path) -> dict[str, bool]:
    if path.is_file() and path.suffix == ".jsonl":
        rows: list[dict[str, Any]] = []
        try:
            rows = [fields for _, fields in json_lines(path)]
        except InputDataError:  # COCO's masks may have numbers for ids
            rows = []
        if rows and all("task" in row or "tasks" in row for row in rows) and not _has_files(rows):
            require_unique_ids(path, (normalised(row["id"]) for row in rows))
            return {
                normalised(row["id"]): _SEGMENT in (row.get("tasks") or [row.get("task")])
                for row in rows
            }
    return dict.fromkeys(read_mask_set(path).items, True)


def _has_files(rows: list[dict[str, Any]]) -> bool:
    return any("files" in row for row in rows)
