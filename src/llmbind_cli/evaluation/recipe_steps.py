"""What a recipe has a bundle make before it scores: the shipped commands, each in its own process.

So a recipe measures what a user of the command gets, and goes on where it was stopped: ``generate``
and its like resume by themselves, and a plan that was made by the same weights from the same
requests is not made again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from llmbind_cli import __version__
from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, PartialFailure, error_of
from llmbind_cli.evaluation.report_folder import prepare_folder
from llmbind_cli.recipes.eval_schema import MakeSection
from llmbind_cli.weights.atomic import write_atomically
from llmbind_cli.weights.hashes import sha256_file

_DONE = (0, PartialFailure.exit_code)
_OF_PROCESSES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def command_of(
    make: MakeSection, *, work: Path, model: str, device: str, seed: int, offline: bool
) -> list[str]:
    """Return the arguments of ``llmbind`` that make what a recipe asks for.

    Args:
        make: The step.
        work: Folder of what is made.
        model: The bundle.
        device: Where it runs.
        seed: Of the run.
        offline: Fetch nothing.
    """
    kind = "generate" if make.kind == "plan" else make.kind
    arguments = [kind, "--from", str(make.requests), "--model", model, "--device", device]
    arguments += ["--seed", str(seed)]
    if kind != "edit":
        arguments += ["--batch-size", str(make.batch_size)]
    if make.max_new_tokens is not None:
        arguments += ["--max-new-tokens", str(make.max_new_tokens)]
    arguments += ["--direct"] if make.direct else []
    arguments += ["--modality", make.modality] if make.modality is not None else []
    arguments += ["--teacher-forced"] if make.teacher_forced else []
    arguments += ["--plan", "--json"] if make.kind == "plan" else ["--out", str(work / make.name)]
    return [*arguments, "--offline"] if offline else arguments


def run_step(
    make: MakeSection, arguments: list[str], *, work: Path, model: str, resume: bool, offline: bool
) -> None:
    """Make something, unless it is there.

    Args:
        make: The step.
        arguments: Of :func:`command_of`.
        work: Folder of what is made.
        model: The bundle.
        resume: Take a plan that was made before.
        offline: Fetch nothing.

    Raises:
        LlmbindError: The command failed; the class is that of its exit code.
        OutputError: The folder cannot be written.
    """
    prepare_folder(work)
    if make.kind != "plan":
        _run(make, arguments)
        return
    path, record_path = work / f"{make.name}.jsonl", work / f"{make.name}.json"
    record = _record(make, arguments, model, offline=offline)
    if resume and path.is_file() and _read(record_path) == record | {"plan": sha256_file(path)}:
        console.log(f"{make.name}: {path} is there")
        return
    lines = _run(make, arguments)
    if make.router_load:
        from llmbind_cli.evaluation.router_loads import with_router_loads

        lines = with_router_loads(lines, make.requests, model=model, offline=offline)
    write_atomically(path, partial(_put, lines))
    record["plan"] = sha256_file(path)
    write_atomically(record_path, partial(_put, json.dumps(record, indent=2).encode() + b"\n"))


def _run(make: MakeSection, arguments: list[str]) -> bytes:
    """Run ``llmbind``; its messages go to stderr as they come. Returns what it printed."""
    console.log(f"{make.name}: llmbind {shlex.join(arguments)}")
    environment = {name: value for name, value in os.environ.items() if name not in _OF_PROCESSES}
    run = subprocess.run(  # noqa: S603  our own command, its arguments apart
        [sys.executable, "-m", "llmbind_cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if run.returncode not in _DONE:
        raise error_of(
            run.returncode,
            f"{make.name}: llmbind {shlex.join(arguments)} ended with {run.returncode}, see above",
        )
    if make.kind == "plan" and not run.stdout:
        raise InputDataError(f"{make.requests}: gave no plan")
    return run.stdout


def _record(
    make: MakeSection, arguments: list[str], model: str, *, offline: bool
) -> dict[str, Any]:
    from llmbind_cli.model.bundle_folder import fingerprint, locate_bundle

    return {
        "llmbind": __version__,
        "arguments": arguments,
        "requests": sha256_file(make.requests),
        "bundle": fingerprint(locate_bundle(model, offline=offline)),
        "router_load": make.router_load,
    }


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _put(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)
