"""``--dry-run``: what a batch would do and take, told without loading anything."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.inference.artifacts import ResultLine
from llmbind_cli.inference.batch.batch_settings import BatchSettings, jobs_of
from llmbind_cli.inference.batch.job import JobCard
from llmbind_cli.inference.batch.job_folder import card_after, card_of
from llmbind_cli.inference.batch.ledger import Ledger
from llmbind_cli.inference.decisions import Decision
from llmbind_cli.inference.dispatch import Job
from llmbind_cli.inference.json_lines import to_json
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import Request

_ANY = "auto"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What something takes.

    Attributes:
        seconds: Wall time.
        bytes: Room on the disk.
    """

    seconds: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(seconds=self.seconds + other.seconds, bytes=self.bytes + other.bytes)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run would find, and what it would take.

    Attributes:
        requests: Requests of this shard.
        bad_lines: Lines of this shard that are no request.
        modalities: Modality → requests for it; ``auto`` where the model chooses.
        done: Requests whose files are there.
        failed: Requests that the model answered without a call; they are not asked again.
        to_do: Requests with something left to make.
        undecided: Those of them that the model has not decided on.
        seconds: What the rest would take, by what was measured in this folder so far; ``None``
            while too little was.
        bytes: Likewise the room on the disk.
        free_bytes: Room on the disk of the output folder.
    """

    requests: int
    bad_lines: int
    modalities: dict[str, int]
    done: int
    failed: int
    to_do: int
    undecided: int
    seconds: float | None
    bytes: int | None
    free_bytes: int

    def text(self) -> str:
        """Return the estimate for people."""
        kinds = ", ".join(f"{count} {name}" for name, count in self.modalities.items())
        unknown = "unknown until some items are done"
        seconds = unknown if self.seconds is None else f"about {self.seconds:.0f} s"
        room = unknown if self.bytes is None else f"about {self.bytes / 1e6:.1f} MB"
        return "\n".join(
            [
                f"requests   {self.requests} ({kinds})" if kinds else "requests   0",
                f"bad lines  {self.bad_lines}",
                f"done       {self.done}",
                f"failed     {self.failed}",
                f"to do      {self.to_do}, {self.undecided} of them undecided",
                f"time       {seconds}",
                f"disk       {room}, {self.free_bytes / 1e6:.0f} MB free",
            ]
        )


def run_dry(settings: BatchSettings, options: ModelOptions) -> None:
    """Print the estimate of a batch; write nothing.

    Raises:
        UsageError: A setting of the generators concerns none of the items.
        ConfigurationError: The folder holds another job.
        InputDataError: The requests cannot be read, or an id stands for another request.
    """
    items = settings.read()
    requests = [item for item in items if isinstance(item, Request)]
    options.settings.refuse_unused(settings.modalities(requests))
    known = JobCard.read(settings.out)
    if known is not None:
        registry = options.generators(settings.generators)
        card = card_of(settings, options, requests, registry=registry, known=known)
        card_after(known, card, out=settings.out)
    own = [settings.with_modality(r) for r in requests if settings.shard.takes(r.id)]
    num_bad = sum(settings.shard.takes(item.id) for item in items) - len(own)
    estimate = estimate_of(own, settings, num_bad=num_bad)
    console.result(to_json(asdict(estimate)) if console.json else estimate.text())


def estimate_of(requests: Sequence[Request], settings: BatchSettings, *, num_bad: int) -> Estimate:
    """Count and estimate.

    Args:
        requests: Those of this shard, their modality settled.
        settings: What the batch is to do.
        num_bad: Lines of this shard that are no request.
    """
    ledger = Ledger(out=settings.out, shard=settings.shard)
    costs = _Measured(ledger.results, ledger.decisions)
    counts: Counter[str] = Counter()
    left: list[Cost | None] = []
    for request in requests:
        decision = ledger.decision(request.id)
        jobs = jobs_of(request, decision, settings)
        if jobs is None:
            counts["undecided"] += 1
            left.append(costs.of_undecided(request.modality))
        elif not jobs:
            counts["failed"] += 1
        elif waiting := [job for job in jobs if ledger.done(job) is None]:
            counts["waiting"] += 1
            left += costs.of_jobs(waiting)
        else:
            counts["done"] += 1
    known = [cost for cost in left if cost is not None]
    total = sum(known, Cost(seconds=0.0, bytes=0.0)) if len(known) == len(left) else None
    return Estimate(
        requests=len(requests),
        bad_lines=num_bad,
        modalities=dict(Counter(request.modality or _ANY for request in requests)),
        done=counts["done"],
        failed=counts["failed"],
        to_do=counts["undecided"] + counts["waiting"],
        undecided=counts["undecided"],
        seconds=None if total is None else round(total.seconds, 1),
        bytes=None if total is None else round(total.bytes),
        free_bytes=shutil.disk_usage(_existing(settings.out)).free,
    )


class _Measured:
    """Mean costs of what was done in a folder so far."""

    def __init__(self, results: Iterable[ResultLine], decisions: Sequence[Decision]) -> None:
        by_task: dict[str, list[Cost]] = {}
        ids = set()
        for line in results:
            if line.status == "ok":
                size = sum(_size(Path(file.path)) for file in line.files)
                by_task.setdefault(line.task, []).append(Cost(seconds=line.seconds, bytes=size))
                ids.add(line.id)
        self._by_task = {task: _share(costs, len(costs)) for task, costs in by_task.items()}
        everything = [cost for costs in by_task.values() for cost in costs]
        self._an_item = _share(everything, len(ids)) if ids else None
        thought = [Cost(seconds=decision.seconds, bytes=0.0) for decision in decisions]
        self._a_decision = _share(thought, len(thought)) if thought else None

    def of_jobs(self, jobs: Iterable[Job]) -> list[Cost | None]:
        """Return the cost of each job, ``None`` where its task was not done yet."""
        return [self._by_task.get(job.task) for job in jobs]

    def of_undecided(self, modality: str | None) -> Cost | None:
        """Return the cost of a decision and of what follows from it."""
        making = self._an_item if modality is None else self._by_task.get(modality)
        if making is None or self._a_decision is None:
            return None
        return making + self._a_decision


def _share(costs: Sequence[Cost], count: int) -> Cost:
    total = sum(costs, Cost(seconds=0.0, bytes=0.0))
    return Cost(seconds=total.seconds / count, bytes=total.bytes / count)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
