"""Calls of one reply that build on each other: a picture is made before it is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmbind_cli.inference.artifacts import ResultLine
from llmbind_cli.inference.dispatch import NEEDS_PICTURE, SIGHT_TASKS, Job

_MAKES_PICTURE = ("image", "edit")


def run_in_rounds(
    replies: Iterable[Sequence[Job]],
    *,
    pictures: Mapping[str, Path],
    run: Callable[[list[Job]], list[ResultLine]],
) -> list[ResultLine]:
    """Run the calls of several replies, as many at a time as do not wait for each other.

    An edit acts on the last picture that its own reply made before it, or else on the one attached
    to the request. A mask or box is always of the attached one, which the model has seen.

    Args:
        replies: The jobs of each reply, in order.
        pictures: Item id → the picture attached to the request.
        run: Runs jobs and returns a result for each that was done.

    Returns:
        The results of all rounds.
    """
    rounds: list[list[Job]] = []
    for jobs in replies:
        for depth, group in enumerate(_groups(jobs)):
            if depth == len(rounds):
                rounds.append([])
            rounds[depth] += group
    latest = dict(pictures)
    results: list[ResultLine] = []
    for jobs in rounds:
        lines = run(
            [
                replace(job, image=_picture_of(job, latest, pictures))
                if job.task in NEEDS_PICTURE
                else job
                for job in jobs
            ]
        )
        for line in lines:
            if line.task in _MAKES_PICTURE:
                latest.pop(line.id, None)
                if line.files:
                    latest[line.id] = Path(line.files[-1].path)
        results += lines
    return results


def _picture_of(job: Job, latest: Mapping[str, Path], attached: Mapping[str, Path]) -> Path | None:
    return (attached if job.task in SIGHT_TASKS else latest).get(job.item_id)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Split the jobs of a reply before each edit of a picture that the same reply makes."""
    groups: list[list[Job]] = [[]]
    has_picture = False
    for job in jobs:
        if job.task == "edit" and has_picture:
            groups.append([])
            has_picture = False
        groups[-1].append(job)
        has_picture = has_picture or job.task in _MAKES_PICTURE
    return groups
