"""Files of JSON lines that grow: whole lines only, flushed, and safe from a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llmbind_cli.errors import InputDataError
from llmbind_cli.weights.atomic import storage_error, write_atomically
from llmbind_cli.weights.lock import exclusive_lock

COMMIT_WAIT_S = 60.0
"""How long a write waits for another process's write, in seconds."""


def to_json(fields: Mapping[str, Any]) -> str:
    """Return an object as one line without its end; always valid UTF-8 when encoded."""
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # JSON input may hold lone surrogates, which UTF-8 cannot; escapes can.
        text = json.dumps(fields)
    return text


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line of a file and its object; nothing where the file is missing.

    What follows the last line end is what a killed process left of a line, and is passed over.

    Raises:
        InputDataError: The file cannot be read, or a whole line is no JSON object.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            text = line.decode("utf-8")
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputDataError(f"{path}:{number}: is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputDataError(f"{path}:{number}: is no JSON object")
        yield text, fields


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines in one write and flush them to the disk.

    What a killed process left of an unfinished last line is dropped first.

    Args:
        path: The file; created when missing.
        lines: Each without its end.

    Raises:
        OutputError: The file cannot be written.
        StorageError: The disk is full or failing; the file is as it was.
        LockHeldError: Another process kept it locked for a minute.
    """
    text = "".join(f"{line}\n" for line in lines).encode("utf-8")
    with commit_lock(path):
        try:
            with path.open("r+b") as stream:
                end = _end_of_whole_lines(stream)
                stream.truncate(end)
                stream.seek(end)
                try:
                    stream.write(text)
                    stream.flush()
                    os.fsync(stream.fileno())
                except OSError:
                    os.ftruncate(stream.fileno(), end)
                    raise
        except OSError as error:
            raise storage_error(path, error) from error


def replace_lines(path: Path, lines: Iterable[str]) -> None:
    """Put other lines in the place of all that a file holds, in one step.

    Raises:
        OutputError: The file cannot be written.
        StorageError: The disk is full or failing; the file is as it was.
        LockHeldError: Another process kept it locked for a minute.
    """

    def write(stream: BinaryIO) -> None:
        stream.writelines(f"{line}\n".encode() for line in lines)

    with commit_lock(path):
        write_atomically(path, write)


@contextmanager
def commit_lock(path: Path) -> Iterator[None]:
    """Hold a growing file for the length of a write; the file is created where it is missing.

    Raises:
        OutputError: It cannot be created.
        LockHeldError: Another process kept it locked for a minute.
    """
    while True:
        inode = _inode(path)
        with exclusive_lock(path, wait_s=COMMIT_WAIT_S):
            # Whoever held the file before may have put a new one in its place.
            if _inode(path) == inode:
                yield
                return


def _inode(path: Path) -> int:
    try:
        if not path.exists():
            path.touch()
        return path.stat().st_ino
    except OSError as error:
        raise storage_error(path, error) from error


def _end_of_whole_lines(stream: BinaryIO) -> int:
    """Return the offset just after the last line end, 0 where there is none."""
    block = 65536
    start = stream.seek(0, os.SEEK_END)
    while start > 0:
        size = min(block, start)
        start -= size
        stream.seek(start)
        found = stream.read(size).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return 0
