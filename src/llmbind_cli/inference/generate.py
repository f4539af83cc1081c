"""``llmbind generate``: requests become files, or with ``--plan`` only decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, LlmbindError, PartialFailure, UsageError
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.artifacts import ArtifactFolder, ResultLine
from llmbind_cli.inference.dispatch import Job, dispatch, item_seed, jobs_of_reply
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.planner import Plan, Planner
from llmbind_cli.inference.requests import BadLine, Request, read_requests, read_stdin


def run_generate(
    *,
    prompt: str | None,
    modality: str,
    direct: bool,
    plan: bool,
    requests: str | None,
    out: Path,
    generators: dict[str, str],
    batch_size: int,
    max_new_tokens: int,
    seed: int,
    options: ModelOptions,
) -> None:
    """Generate as the flags say; see ``commands/generate.md``.

    Raises:
        PartialFailure: Some items of a batch failed; the others are done.
        LlmbindError: The run, or its only item, failed.
    """
    fixed = None if modality == "auto" else modality
    items = _items(prompt, requests, fixed)
    if plan:
        plan_requests(
            items,
            options=options,
            seed=seed,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        return
    folder = ArtifactFolder(out=out)
    good = [item for item in items if isinstance(item, Request)]
    lines = [_bad_line(item) for item in items if isinstance(item, BadLine)]
    name = None
    jobs: list[Job] = []
    if direct:
        jobs = [_direct_job(request, seed) for request in good]
    elif good:
        bound = options.load()
        name = bound.name
        planner = Planner(
            bound, max_new_tokens=max_new_tokens, run_seed=seed, batch_size=batch_size
        )
        plans = list(console.progress(planner.plan(good), total=len(good), desc="deciding"))
        jobs = [job for decided in plans for job in _jobs(decided, seed)]
        lines += [line for decided in plans for line in _undone(decided, bound.name)]
    registry = options.generators(generators)
    if requests is None:  # in a batch, items without a generator fail and the others go on
        for task in dict.fromkeys(job.task for job in jobs):
            _check(registry, task, jobs)
    for line in lines:
        folder.append(line)
        show(line)
    lines += dispatch(jobs, generators=registry, artifacts=folder, model=name, on_result=show)
    _raise_failures(lines, batch=requests is not None)


def plan_requests(
    items: Sequence[Request | BadLine],
    *,
    options: ModelOptions,
    seed: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    batch_size: int = 8,
) -> None:
    """Print one JSON line for each decision; run nothing.

    Raises:
        PartialFailure: Some of several requests failed.
        LlmbindError: The only request failed, or the model could not be loaded.
    """
    if not items:
        return
    bound = options.load()
    planner = Planner(
        bound,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        run_seed=seed,
        batch_size=batch_size,
    )
    lines = [_bad_line(item) for item in items if isinstance(item, BadLine)]
    for line in lines:
        console.result(line.to_json())
    good = [item for item in items if isinstance(item, Request)]
    for decided in console.progress(planner.plan(good), total=len(good), desc="deciding"):
        for line in decided.lines(bound.name):
            lines.append(line)
            console.result(line.to_json())
    _raise_failures(lines, batch=len(items) > 1)


def _items(
    prompt: str | None, requests: str | None, modality: str | None
) -> list[Request | BadLine]:
    if requests is not None:
        items = read_requests(requests)
        return [
            Request(**{**vars(item), "modality": item.modality or modality})
            if isinstance(item, Request)
            else item
            for item in items
        ]
    if prompt == "-":
        prompt = read_stdin()
    if not str(prompt).strip():
        raise InputDataError("the prompt is empty")
    return [Request(id="prompt", prompt=str(prompt), modality=modality)]


def _direct_job(request: Request, run_seed: int) -> Job:
    if request.modality is None:
        raise UsageError(
            f"--direct hands {request.id!r} to no generator: name one with --modality "
            f"image, video or audio"
        )
    own = item_seed(run_seed, request.id) if request.seed is None else request.seed
    return Job(
        item_id=request.id,
        index=0,
        task=request.modality,
        prompt=request.prompt,
        seed=own,
        extra=request.extra,
    )


def _jobs(plan: Plan, run_seed: int) -> list[Job]:
    return jobs_of_reply(
        plan.calls,
        item_id=plan.request.id,
        run_seed=run_seed,
        seed=plan.request.seed,
        reply=plan.reply,
        extra=plan.request.extra,
    )


def _undone(plan: Plan, model: str) -> list[ResultLine]:
    """Return lines for a failed decision, and for plain talk, from which nothing is made."""
    if plan.error is not None:
        return plan.lines(model)
    if plan.calls:
        return []
    reason = PartialFailure(f"{plan.request.id}: the model answered in words only: {plan.reply}")
    return [
        ResultLine(
            id=plan.request.id,
            status="empty",
            task="text",
            prompt="",
            reply=plan.reply,
            seed=plan.seed,
            model=model,
            seconds=plan.seconds,
            error=reason,
            extra=plan.request.extra,
        )
    ]


def _check(registry: GeneratorRegistry, task: str, jobs: Iterable[Job]) -> None:
    """Fail before any picture is made, and tell what the model had decided."""
    try:
        registry.check(task)
    except LlmbindError as error:
        job = next(job for job in jobs if job.task == task)
        raise type(error)(f"{error} (the request calls for {task}: {job.prompt!r})") from error


def _bad_line(item: BadLine) -> ResultLine:
    return ResultLine(
        id=item.id,
        status="failed",
        task="text",
        prompt="",
        reply=None,
        seed=None,
        model="",
        seconds=0.0,
        error=item.error,
    )


def show(line: ResultLine) -> None:
    """Print a result: its JSON line with ``--json``, else the path of each file."""
    if console.json:
        console.result(line.to_json())
        return
    for file in line.files:
        console.result(file.path)


def _raise_failures(lines: Sequence[ResultLine], *, batch: bool) -> None:
    failed = [line.error for line in lines if line.error is not None]
    if not failed:
        return
    if not batch:
        raise failed[0]
    raise PartialFailure(f"{len(failed)} of {len(lines)} items failed; the first: {failed[0]}")
