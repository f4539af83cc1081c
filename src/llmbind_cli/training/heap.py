"""Hands memory that a step has freed back to the system.

Batches differ in width, so a CPU step asks for blocks of ever other sizes, and glibc keeps what is
freed between blocks in use: the resident set of a long run grows far beyond what it needs.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def return_freed_memory() -> None:
    """Let the C library give its free pages back; does nothing where it offers no way to."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    return found
