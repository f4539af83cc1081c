"""The folder that a report is written to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from llmbind_cli.console import console
from llmbind_cli.errors import OutputError
from llmbind_cli.weights.atomic import storage_error, write_atomically


def prepare_folder(folder: Path) -> None:
    """Make a report's folder and write to it once, before any work is done.

    Raises:
        OutputError: It is a file, or cannot be made or written.
        StorageError: The disk is full or failing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: is a file; --report needs a folder") from error
    except OSError as error:
        raise storage_error(folder, error) from error
    trial = folder / ".llmbind-trial"
    write_atomically(trial, lambda stream: stream.write(b""))
    trial.unlink(missing_ok=True)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files, each whole or not at all; errors as for :func:`prepare_folder`.

    Args:
        folder: Of :func:`prepare_folder`.
        contents: Name → content.
    """
    for name, content in contents.items():
        write_atomically(folder / name, partial(_put, content))
    console.log(f"report in {folder}: {', '.join(contents)}")


def _put(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)
