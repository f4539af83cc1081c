"""Carry out the task calls of replies: one generator load per task, results in the given order.

The last step of LLMBind's request flow (arXiv 2402.14891, section 3.1): each task-prompt token
pair of a reply hands its text to the frozen model of its task.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import InputDataError, LlmbindError, UsageError
from llmbind_cli.generators.base import (
    SEED_LIMIT,
    GenerationOutcome,
    Generator,
    GeneratorRequest,
)
from llmbind_cli.inference.artifacts import ArtifactFile, ArtifactFolder, ResultLine
from llmbind_cli.inference.states import state_of_text
from llmbind_cli.tokens import require_whole_characters

if TYPE_CHECKING:
    from PIL.Image import Image

SIGHT_TASKS = ("segment", "detect")
"""Tasks that point at something in a picture."""

NEEDS_PICTURE = ("edit", *SIGHT_TASKS)

_SEED_BITS = 53  # JSON readers such as jq hold numbers as doubles, exact up to 2^53


class Call(Protocol):
    """The part of a :class:`llmbind_cli.tokens.TaskCall` that a generator needs."""

    @property
    def task(self) -> str:
        """Task name of the token table."""

    @property
    def prompt(self) -> str:
        """Text between the token pair, or the phrase that a single token is tied to."""


class GeneratorSource(Protocol):
    """Where :func:`dispatch` gets a task's generator from: the registry, or a test's own."""

    def load(self, modality: str) -> Generator:
        """Return the generator of a task, loaded at most once."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task call of one item, ready to run.

    Attributes:
        item_id: The item's id.
        index: Position of the call in its reply, from 0.
        task: Task name of the token table.
        prompt: Text for the generator.
        seed: Seed of this call alone, see :func:`item_seed`.
        reply: The whole reply; ``None`` where no model was asked.
        image: The picture in context, to edit or to point at. One named by its path is read when
            the job's turn has come, so that many waiting jobs hold no pictures.
        state: Hidden state of a single token; ``None`` for tasks whose prompt is words.
        extra: Unknown fields of the input line, carried through.
    """

    item_id: str
    index: int
    task: str
    prompt: str
    seed: int
    reply: str | None = None
    image: Image | Path | None = None
    state: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def item_seed(run_seed: int, item_id: str, index: int = 0) -> int:
    """Return the seed of one call: a hash of the run's seed, the item's id and the call's place.

    It does not depend on batch size, shard or order, so neither does the result.

    Args:
        run_seed: Value of ``--seed``.
        item_id: The item's id.
        index: Position of the call in its reply, from 0.

    Returns:
        A whole number in [0, 2^53).
    """
    text = f"{run_seed}\0{index}\0{item_id}".encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def jobs_of_reply(
    calls: Iterable[Call],
    *,
    item_id: str,
    run_seed: int,
    seed: int | None = None,
    reply: str | None = None,
    image: Image | Path | None = None,
    extra: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Return one job for each call of a reply, in order.

    Args:
        calls: What :func:`llmbind_cli.tokens.parse_reply` found.
        item_id: The item's id.
        run_seed: Value of ``--seed``.
        seed: The item's own seed where its input line has one; the first call takes it as it is.
        reply: The whole reply.
        image: The picture in context, or its path.
        extra: Unknown fields of the input line.
    """
    jobs = []
    for index, call in enumerate(calls):
        if seed is not None:
            own = seed if index == 0 else item_seed(seed, item_id, index)
        else:
            own = item_seed(run_seed, item_id, index)
        jobs.append(
            Job(
                item_id=item_id,
                index=index,
                task=call.task,
                prompt=call.prompt,
                seed=own,
                reply=reply,
                image=image,
                # Calls that were decided on have one; those that were just parsed do not.
                state=getattr(call, "state", None),
                extra=extra or {},
            )
        )
    return jobs


def dispatch(
    jobs: Sequence[Job],
    *,
    generators: GeneratorSource,
    artifacts: ArtifactFolder,
    model: str | None = None,
    on_result: Callable[[ResultLine], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[ResultLine]:
    """Run every job and write its file and manifest line.

    Jobs are grouped by task, so each generator is loaded once and works on full batches. A job
    that fails is recorded and the others go on. Each result is on disk before the next batch
    starts, in the order of finishing.

    Args:
        jobs: Any number, of any tasks.
        generators: Gives the generator of a task.
        artifacts: The output folder.
        model: The bundle that wrote the prompts; without one, results name their generator.
        on_result: Called with each result once it is on disk.
        stop: Asked before each batch; once it says so, what is left of the jobs stays undone.

    Returns:
        One result for each job that was done, in the order of ``jobs``.

    Raises:
        OutputError: The folder can no longer be written.
        StorageError: The disk is full or failing.
    """
    run = _Run(jobs, artifacts=artifacts, model=model, on_result=on_result)
    for task, positions in _by_task(jobs).items():
        able = run.refuse_hopeless(positions)
        if not able or (stop is not None and stop()):
            continue
        try:
            generator = generators.load(task)
        except LlmbindError as error:
            for position in able:
                run.record(position, error)
            continue
        for start in range(0, len(able), generator.batch_size):
            if stop is not None and stop():
                break
            run.generate(generator, able[start : start + generator.batch_size])
    return [run.lines[position] for position in sorted(run.lines)]


class _Run:
    """The jobs of one :func:`dispatch`, and the results so far by the position of their job."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        artifacts: ArtifactFolder,
        model: str | None,
        on_result: Callable[[ResultLine], None] | None,
    ) -> None:
        self.lines: dict[int, ResultLine] = {}
        self._jobs = jobs
        self._artifacts = artifacts
        self._model = model
        self._on_result = on_result

    def refuse_hopeless(self, positions: Iterable[int]) -> list[int]:
        """Record the jobs that no generator could do, and return the others."""
        able = []
        for position in positions:
            refusal = _refusal(self._jobs[position])
            if refusal is None:
                able.append(position)
            else:
                self.record(position, refusal)
        return able

    def generate(self, generator: Generator, positions: Iterable[int]) -> None:
        """Run one batch and record what comes of it."""
        asked: dict[int, GeneratorRequest] = {}
        for position in positions:
            try:
                asked[position] = _request(self._jobs[position])
            except InputDataError as error:
                self.record(position, error, name=generator.name)
        began = time.monotonic()
        outcomes = generator.generate(list(asked.values())) if asked else []
        seconds = (time.monotonic() - began) / max(1, len(asked))
        for position, outcome in zip(asked, outcomes, strict=True):
            self.record(position, outcome, name=generator.name, seconds=seconds)

    def record(
        self, position: int, outcome: GenerationOutcome, *, name: str = "", seconds: float = 0.0
    ) -> None:
        """Put an outcome on disk, then tell of it."""
        line = _result(
            self._jobs[position],
            outcome,
            artifacts=self._artifacts,
            model=self._model if self._model is not None else name,
            seconds=seconds,
        )
        self._artifacts.append(line)
        self.lines[position] = line
        if self._on_result is not None:
            self._on_result(line)


def _result(
    job: Job,
    outcome: GenerationOutcome,
    *,
    artifacts: ArtifactFolder,
    model: str,
    seconds: float,
) -> ResultLine:
    """Put what came of a job on disk, and return its line."""
    files: tuple[ArtifactFile, ...] = ()
    error: LlmbindError | None = None
    if isinstance(outcome, LlmbindError):
        error = outcome
    else:
        files = tuple(
            artifacts.save(
                artifact,
                item_id=job.item_id,
                task=f"{job.task}-{artifact.label}" if artifact.label else job.task,
                index=job.index,
            )
            for artifact in (outcome, *outcome.companions)
        )
    return ResultLine(
        id=job.item_id,
        status="ok" if error is None else "failed",
        task=job.task,
        prompt=job.prompt,
        reply=job.reply,
        files=files,
        seed=job.seed,
        model=model,
        seconds=seconds,
        error=error,
        extra=job.extra,
    )


def _by_task(jobs: Sequence[Job]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for position, job in enumerate(jobs):
        groups.setdefault(job.task, []).append(position)
    return groups


def _refusal(job: Job) -> LlmbindError | None:
    if job.task in NEEDS_PICTURE and job.image is None:
        return UsageError(f"there is no picture to {job.task}; name one")
    if not job.prompt.strip():
        return InputDataError("the prompt is empty")
    try:
        require_whole_characters(job.prompt, "the prompt")
    except InputDataError as error:
        return error
    if not 0 <= job.seed < SEED_LIMIT:
        return InputDataError(f"seed must lie in [0, 2^63), got {job.seed}")
    return None


def _request(job: Job) -> GeneratorRequest:
    image = read_picture(job.image) if isinstance(job.image, Path) else job.image
    state = None if job.state is None else state_of_text(job.state)
    return GeneratorRequest(prompt=job.prompt, seed=job.seed, image=image, hidden_state=state)
