"""A kernel lock on a file, so that two processes never do the same work at once.

`flock` belongs to the open file, so the kernel frees it when the process ends, however it ends: a
lock file that a dead process left behind locks nothing. The file itself stays, since removing it
would let two processes lock two different files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmbind_cli.errors import LockHeldError
from llmbind_cli.weights.atomic import storage_error

_POLL_S = 0.1


@contextmanager
def exclusive_lock(
    path: Path, *, wait_s: float = 0.0, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Holds an exclusive lock for the length of a `with` block.

    Args:
        path: The lock file; created when missing. Its folder must exist.
        wait_s: How long to wait for another holder, in seconds. Zero asks once.
        on_wait: Called once when another process holds the lock and waiting begins.

    Yields:
        Nothing.

    Raises:
        LockHeldError: Another process held the lock for all of `wait_s`.
        OutputError: The lock file cannot be created.
        StorageError: The file system cannot lock.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        _acquire(descriptor, path, wait_s=wait_s, on_wait=on_wait)
        yield
    finally:
        os.close(descriptor)


def _acquire(
    descriptor: int, path: Path, *, wait_s: float, on_wait: Callable[[], None] | None
) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        except OSError as error:
            raise storage_error(path, error) from error
        else:
            return
        if time.monotonic() >= deadline:
            raise LockHeldError(f"{path}: held by another llmbind process; wait for it to end")
        if on_wait is not None:
            on_wait()
            on_wait = None
        time.sleep(_POLL_S)
