"""The kernel lock: one holder, waiting, and freedom after death."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from llmbind_cli.errors import LockHeldError, OutputError
from llmbind_cli.weights.lock import exclusive_lock


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive_lock(lock), pytest.raises(LockHeldError, match="lock"), exclusive_lock(lock):
        pass
    with exclusive_lock(lock):
        pass


def test_waiting_is_announced_once_and_ends(tmp_path: Path) -> None:
    announced: list[float] = []
    waiting = threading.Event()

    def announce() -> None:
        announced.append(time.monotonic())
        waiting.set()

    held = exclusive_lock(tmp_path / "lock")
    held.__enter__()

    def release() -> None:
        waiting.wait(5)
        time.sleep(0.35)  # long enough for it to look again a few times
        held.__exit__(None, None, None)

    thread = threading.Thread(target=release)
    thread.start()
    with exclusive_lock(tmp_path / "lock", wait_s=5, on_wait=announce):
        assert len(announced) == 1
    thread.join()


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with exclusive_lock(tmp_path / "lock"):
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    with pytest.raises(LockHeldError), exclusive_lock(tmp_path / "lock"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with exclusive_lock(tmp_path / "lock"):
        pass
    os.close(reading)
    os.close(writing)


def test_a_lock_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError), exclusive_lock(tmp_path / "missing" / "lock"):
        pass
