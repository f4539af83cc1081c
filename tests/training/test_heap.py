"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from llmbind_cli.training import heap


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(heap._malloc_trim() is None, reason="the C library is not glibc")
def test_what_was_freed_between_blocks_in_use_is_given_back():
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    # Below the size that glibc maps on its own; every second one stays in use.
    blocks = [libc.malloc(64_000) for _ in range(4000)]
    for block in blocks:
        ctypes.memset(block, 1, 64_000)
    for block in blocks[::2]:
        libc.free(block)
    before = resident_bytes()
    heap.return_freed_memory()
    assert before - resident_bytes() > 0.8 * 2000 * 60_000
    for block in blocks[1::2]:
        libc.free(block)


def test_another_c_library_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(name)

    heap._malloc_trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    heap.return_freed_memory()
    monkeypatch.undo()
    heap._malloc_trim.cache_clear()
