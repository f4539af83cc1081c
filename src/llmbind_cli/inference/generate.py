"""``llmbind generate``: requests become files, or with ``--plan`` only decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, LlmbindError, PartialFailure
from llmbind_cli.gallery import write_gallery
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.artifacts import ArtifactFolder, ResultLine
from llmbind_cli.inference.batch.batch import run_batch
from llmbind_cli.inference.batch.batch_settings import BatchSettings, jobs_of
from llmbind_cli.inference.batch.estimate import run_dry
from llmbind_cli.inference.batch.merge import run_merge
from llmbind_cli.inference.decisions import Decision, line_of_bad_line
from llmbind_cli.inference.dispatch import Job, dispatch
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import BadLine, Request, read_stdin
from llmbind_cli.inference.rounds import run_in_rounds
from llmbind_cli.weights.lock import exclusive_lock


def run_generate(
    *,
    prompt: str | None,
    settings: BatchSettings,
    plan: bool,
    dry_run: bool,
    merge: Sequence[Path],
    gallery: bool,
    options: ModelOptions,
) -> int:
    """Generate as the flags say; see ``commands/generate.md``.

    Args:
        prompt: The only request; ``None`` where ``settings`` names a file of them.
        settings: What to do.
        plan: Decide, and make nothing.
        dry_run: Count and estimate, and make nothing.
        merge: Folders of shards to put together, in place of all else.
        gallery: Write a page of the results, also when some items failed.
        options: The bundle, and where it runs.

    Returns:
        The exit code: 0, or 130 or 143 when a signal stopped a batch after an item.

    Raises:
        PartialFailure: Some items of a batch failed; the others are done.
        LlmbindError: The run, or its only item, failed.
    """
    if plan:
        plan_requests(
            _planned(prompt, settings),
            options=options,
            seed=settings.seed,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
        )
        return 0
    if dry_run:
        run_dry(settings, options)
        return 0
    try:
        if merge:
            run_merge(merge, out=settings.out, wait_s=settings.wait_s)
            code = 0
        elif prompt is None:
            code = run_batch(settings, options, report=show)
        else:
            _run_one(_request_of(prompt, settings), settings, options)
            code = 0
    except PartialFailure:
        if gallery:
            _tell_gallery(settings.out)
        raise
    if gallery:
        _tell_gallery(settings.out)
    return code


def _tell_gallery(out: Path) -> None:
    console.log(f"gallery: {write_gallery(out)}")


def _run_one(request: Request, settings: BatchSettings, options: ModelOptions) -> None:
    options.settings.refuse_unused(settings.modalities([request]))
    folder = ArtifactFolder(out=settings.out)
    with exclusive_lock(folder.lock, wait_s=settings.wait_s):
        name, decision = None, None
        if not settings.direct:
            bound, plan = options.ask(
                request, max_new_tokens=settings.max_new_tokens, run_seed=settings.seed
            )
            name = bound.name
            decision = Decision.of(plan)
        jobs = jobs_of(request, decision, settings) or []
        registry = options.generators(settings.generators)
        for task in dict.fromkeys(job.task for job in jobs):
            _check(registry, task, jobs)
        lines = []
        if decision is not None and not jobs:
            line = decision.line_without_call(request, run_seed=settings.seed, model=str(name))
            folder.append(line)
            show(line)
            lines.append(line)
        lines += run_in_rounds(
            [jobs],
            pictures={},
            run=lambda ready: dispatch(
                ready, generators=registry, artifacts=folder, model=name, on_result=show
            ),
        )
    _raise_failures(lines, batch=False)


def plan_requests(
    items: Sequence[Request | BadLine],
    *,
    options: ModelOptions,
    seed: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    batch_size: int = 32,
) -> None:
    """Print one JSON line for each decision; run nothing.

    Raises:
        PartialFailure: Some of several requests failed.
        LlmbindError: The only request failed, or the model could not be loaded.
    """
    if not items:
        return
    bound = options.load()
    from llmbind_cli.inference.planner import Planner

    planner = Planner(
        bound,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        run_seed=seed,
        batch_size=batch_size,
    )
    lines = [line_of_bad_line(item) for item in items if isinstance(item, BadLine)]
    for line in lines:
        console.result(line.to_json())
    good = [item for item in items if isinstance(item, Request)]
    for decided in console.progress(planner.plan(good), total=len(good), desc="deciding"):
        for line in decided.lines(bound.name):
            lines.append(line)
            console.result(line.to_json())
    _raise_failures(lines, batch=len(items) > 1)


def _planned(prompt: str | None, settings: BatchSettings) -> list[Request | BadLine]:
    if prompt is not None:
        return [_request_of(prompt, settings)]
    return [
        replace(item, modality=item.modality or settings.modality)
        if isinstance(item, Request)
        else item
        for item in settings.read()
        if settings.shard.takes(item.id)
    ]


def _request_of(prompt: str, settings: BatchSettings) -> Request:
    words = read_stdin() if prompt == "-" else prompt
    if not words.strip():
        raise InputDataError("the prompt is empty")
    return settings.with_modality(Request(id="prompt", prompt=words))


def _check(registry: GeneratorRegistry, task: str, jobs: Iterable[Job]) -> None:
    """Fail before any picture is made, and tell what the model had decided."""
    try:
        registry.check(task)
    except LlmbindError as error:
        job = next(job for job in jobs if job.task == task)
        raise type(error)(f"{error} (the request calls for {task}: {job.prompt!r})") from error


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
