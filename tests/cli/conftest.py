"""Processes that the tests of the command line start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def cpu_seconds(environment: Callable[..., dict[str, str]]) -> Callable[..., float]:
    """Runs Python with arguments and measures the user and system time of that process."""

    def measure(*arguments: str) -> float:
        with Path(os.devnull).open("w") as nothing:
            process = os.posix_spawn(
                sys.executable,
                [sys.executable, *arguments],
                environment(),
                file_actions=[(os.POSIX_SPAWN_DUP2, nothing.fileno(), 1)],
            )
            _, status, usage = os.wait4(process, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        return usage.ru_utime + usage.ru_stime

    return measure
