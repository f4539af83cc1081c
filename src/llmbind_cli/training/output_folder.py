"""The output folder of a run: who may write into it, and whether a run stands there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llmbind_cli.errors import OutputError
from llmbind_cli.training.checkpoints import has_checkpoint
from llmbind_cli.training.distributed import Processes
from llmbind_cli.weights.lock import exclusive_lock

LOCK_NAME = ".lock"


@contextmanager
def claimed(directory: Path, processes: Processes, *, resume: bool) -> Iterator[bool]:
    """Hold the output folder for the length of a ``with`` block.

    A run that its launcher started anew goes on from its last checkpoint without being told, or
    starts again where it had none yet. The launch that owns the folder is noted in the lock file,
    so that only its own restarts do so.

    Args:
        directory: The folder; created when missing.
        processes: The processes of the run; the first one holds the folder for all.
        resume: Whether the user asked to go on with the run in it.

    Yields:
        Whether to go on from a checkpoint.

    Raises:
        OutputError: The folder cannot be written, or holds something and ``resume`` is false.
        LockHeldError: Another run writes into it.
    """
    is_restart = stands = False
    with ExitStack() as stack:

        def claim() -> None:
            nonlocal is_restart, stands
            lock = directory / LOCK_NAME
            _make_writable(directory)
            stack.enter_context(exclusive_lock(lock))
            is_restart = processes.restarts > 0 and lock.read_text() == processes.launch
            stands = has_checkpoint(directory)
            if not (resume or is_restart) and any(p.name != LOCK_NAME for p in directory.iterdir()):
                way_out = "go on with its run by --resume" if stands else "remove it"
                raise OutputError(f"{directory} is not empty; {way_out}, or name another --output")
            lock.write_text(processes.launch)

        processes.first(claim)
        goes_on = resume or (is_restart and stands)
        yield processes.gather(goes_on)[0]


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{directory}: cannot write here: {error.strerror}") from error
