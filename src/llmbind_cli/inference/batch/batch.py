"""``llmbind generate --from``: a file of requests becomes files, whatever comes in between.

Requests are taken in windows: the model decides on one, its calls are grouped by task, the
generators run, and every result is on disk before the next. So a long file needs no more memory
than a short one, and its first results come early. Windows start small and grow, since a larger
one means fewer changes from one generator to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmbind_cli.console import console
from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import LlmbindError, PartialFailure
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.artifacts import ArtifactFolder, ResultLine
from llmbind_cli.inference.batch.batch_settings import BatchSettings, jobs_of
from llmbind_cli.inference.batch.job import JobCard
from llmbind_cli.inference.batch.job_folder import open_job
from llmbind_cli.inference.batch.ledger import Ledger
from llmbind_cli.inference.decisions import Decision, line_of_bad_line
from llmbind_cli.inference.dispatch import SIGHT_TASKS, Job, dispatch
from llmbind_cli.inference.masks import MaskSettings, WithMasks
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import BadLine, Request
from llmbind_cli.inference.rounds import run_in_rounds
from llmbind_cli.interrupt import GracefulInterrupt
from llmbind_cli.weights.lock import exclusive_lock

if TYPE_CHECKING:
    from llmbind_cli.inference.planner import Planner
    from llmbind_cli.model.bound_model import BoundModel

LARGEST_WINDOW = 16
"""Most requests in a window, as a multiple of the batch size."""


def run_batch(
    settings: BatchSettings, options: ModelOptions, *, report: Callable[[ResultLine], None]
) -> int:
    """Do what is left to do of a job.

    Args:
        settings: What to do.
        options: The bundle, and where it runs.
        report: Called with each result, once it is on disk.

    Returns:
        0, or 128 and the number of the signal that stopped the run after an item.

    Raises:
        PartialFailure: Some items failed; the others are done.
        UsageError: A setting of the generators concerns none of the items, or an item goes to no
            generator.
        LockHeldError: Another run works in the folder.
        ConfigurationError: The folder holds another job.
        LlmbindError: The run as a whole failed; what was done stays.
    """
    items = settings.read()
    requests = [item for item in items if isinstance(item, Request)]
    options.settings.refuse_unused(settings.modalities(requests))
    shard = settings.shard
    own = [
        settings.with_modality(item) if isinstance(item, Request) else item
        for item in items
        if shard.takes(item.id)
    ]
    folder = ArtifactFolder(out=settings.out, shard=shard)
    with exclusive_lock(
        folder.lock,
        wait_s=settings.wait_s,
        on_wait=lambda: console.log(f"{settings.out}: another run works here; waiting for it"),
    ):
        registry = options.generators(settings.generators)
        card = open_job(settings, options, requests, registry=registry, folder=folder)
        with (
            GracefulInterrupt() as interrupt,
            console.progress(total=len(own), desc="items") as bar,
        ):
            batch = Batch(
                settings,
                options,
                card=card,
                registry=registry,
                folder=folder,
                report=report,
                stopped=lambda: interrupt.received is not None,
                bar=bar,
            )
            batch.run(own)
    if interrupt.received is not None:
        console.log(
            f"stopped after {batch.num_finished} of {len(own)} items; the same command goes on"
        )
        return 128 + interrupt.received
    batch.raise_failures(len(own))
    return 0


class Batch:
    """One run over the items of a shard.

    Attributes:
        num_finished: Items with a result, also one of an earlier run.
    """

    def __init__(
        self,
        settings: BatchSettings,
        options: ModelOptions,
        *,
        card: JobCard,
        registry: GeneratorRegistry,
        folder: ArtifactFolder,
        report: Callable[[ResultLine], None],
        stopped: Callable[[], bool],
        bar: Any,
    ) -> None:
        self._settings = settings
        self._options = options
        self._model = None if card.model is None else str(card.model)
        self._makers = WithMasks(registry, self._load_model, settings.masks or MaskSettings())
        self._folder = folder
        self._ledger = Ledger(out=folder.out, shard=settings.shard)
        self._show = report
        self._stopped = stopped
        self._bar = bar
        self._bound: BoundModel | None = None
        self._planner: Planner | None = None
        self._finished: set[str] = set()
        self._failed: set[str] = set()
        self._first_error: LlmbindError | None = None

    @property
    def num_finished(self) -> int:
        """Items with a result, also one of an earlier run."""
        return len(self._finished)

    def run(self, items: Sequence[Request | BadLine]) -> None:
        """Pass over what is done, then do the rest, until all is done or a signal came."""
        rest: list[Request] = []
        lines: list[ResultLine] = []
        for item in items:
            if isinstance(item, BadLine):
                lines.append(line_of_bad_line(item))
            elif (settled := self._settled(item)) is None:
                rest.append(item)
            else:
                lines += settled
        known = [line.status == "skipped" or self._ledger.has(line) for line in lines]
        self._ledger.drop_stale(item.id for item in items)
        for line, is_known in zip(lines, known, strict=True):
            if not is_known:
                self._folder.append(line)
            self._take(line)
        for window in _windows(rest, self._settings.batch_size):
            if self._stopped():
                return
            self._decide(window)
            self._generate(window)

    def raise_failures(self, total: int) -> None:
        """Tell of the items that failed.

        Raises:
            PartialFailure: There are some.
        """
        if self._first_error is not None:
            raise PartialFailure(
                f"{len(self._failed)} of {total} items failed; the first: {self._first_error}"
            )

    def _settled(self, request: Request) -> list[ResultLine] | None:
        """Return the results of a request that needs no more work, else ``None``."""
        decision = self._ledger.decision(request.id)
        jobs = jobs_of(request, decision, self._settings)
        if jobs is None:
            return None
        if not jobs and decision is not None:
            return [self._line_without_call(request, decision)]
        done = [self._ledger.done(job) for job in jobs]
        found = [line for line in done if line is not None]
        return found if len(found) == len(jobs) else None

    def _decide(self, requests: Sequence[Request]) -> None:
        """Ask the model about those of a window that it has not decided on yet."""
        if self._settings.direct:
            return
        waiting = [r for r in requests if self._ledger.decision(r.id) is None]
        able = [request for request in waiting if self._has_readable_pictures(request)]
        size = self._settings.batch_size
        for start in range(0, len(able), size):
            if self._stopped():
                return
            chosen = able[start : start + size]
            decisions = [Decision.of(plan) for plan in self._load_planner().plan(chosen)]
            if self._settings.masks is not None:
                decisions = [decision.restricted_to(SIGHT_TASKS) for decision in decisions]
            self._ledger.decide(decisions)
            for request, decision in zip(chosen, decisions, strict=True):
                if decision.error is not None or not decision.calls:
                    self._record(self._line_without_call(request, decision))

    def _generate(self, requests: Sequence[Request]) -> None:
        """Carry out the calls of a window."""
        run_in_rounds(
            [
                jobs_of(request, self._ledger.decision(request.id), self._settings) or []
                for request in requests
            ],
            pictures={request.id: request.images[-1] for request in requests if request.images},
            run=self._dispatch,
        )

    def _dispatch(self, jobs: Sequence[Job]) -> list[ResultLine]:
        lines, waiting = [], []
        for job in jobs:
            line = self._ledger.done(job)
            if line is None:
                waiting.append(job)
            else:
                lines.append(line)
                self._take(line)
        return lines + dispatch(
            waiting,
            generators=self._makers,
            artifacts=self._folder,
            model=self._model,
            on_result=self._take,
            stop=self._stopped,
        )

    def _has_readable_pictures(self, request: Request) -> bool:
        """Say whether the attached pictures can be read; an item that has others fails (18–22)."""
        try:
            for path in request.images:
                read_picture(path)
        except LlmbindError as error:
            decision = Decision(id=request.id, reply=None, calls=(), error=error, seconds=0.0)
            self._record(self._line_without_call(request, decision))
            return False
        return True

    def _line_without_call(self, request: Request, decision: Decision) -> ResultLine:
        return decision.line_without_call(
            request, run_seed=self._settings.seed, model=str(self._model)
        )

    def _load_planner(self) -> Planner:
        if self._planner is None:
            model = self._load_model()
            from llmbind_cli.inference.planner import Planner
            from llmbind_cli.inference.teacher_forced import TeacherForcedPlanner

            kind = TeacherForcedPlanner if self._settings.teacher_forced else Planner
            self._planner = kind(
                model,
                max_new_tokens=self._settings.max_new_tokens,
                run_seed=self._settings.seed,
                batch_size=self._settings.batch_size,
            )
        return self._planner

    def _load_model(self) -> BoundModel:
        if self._bound is None:
            self._bound = self._options.load()
        return self._bound

    def _record(self, line: ResultLine) -> None:
        self._folder.append(line)
        self._take(line)

    def _take(self, line: ResultLine) -> None:
        """Count a result that is on disk, and tell of it."""
        if line.error is not None:
            self._failed.add(line.id)
            self._first_error = self._first_error or line.error
        if line.id not in self._finished:
            self._finished.add(line.id)
            self._bar.update(1)
        self._show(line)


def _windows(requests: Sequence[Request], batch_size: int) -> Iterator[Sequence[Request]]:
    start, size = 0, batch_size
    while start < len(requests):
        yield requests[start : start + size]
        start += size
        size = min(2 * size, LARGEST_WINDOW * batch_size)
