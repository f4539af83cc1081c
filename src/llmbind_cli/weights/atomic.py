"""Writes that a reader, a full disk or a killed process never sees half done.

A file or directory is first written beside its target, flushed to the disk, and then renamed onto
it; the folder is flushed last, so that the rename itself survives a power cut.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from llmbind_cli.errors import LlmbindError, OutputError, StorageError

_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h


def storage_error(path: Path, error: OSError) -> LlmbindError:
    """Turns an operating-system error met while writing into the error that llmbind reports.

    Args:
        path: The file or directory that was to be written.
        error: What the operating system said.

    Returns:
        `StorageError` for a full or failing disk, `OutputError` for everything that says the
        place cannot be written (permission, missing folder, read-only, name too long).
    """
    reason = error.strerror or str(error)
    if error.errno in _DISK_ERRNOS:
        return StorageError(f"{path}: {reason}; free some space and run again")
    return OutputError(f"{path}: cannot be written: {reason}")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that `path` holds either its earlier content or all of the new one.

    Args:
        path: The file to create or replace. Its folder must exist.
        write: Called once with the binary file to write to.

    Raises:
        StorageError: The disk is full or failing. The earlier file is intact.
        OutputError: The folder is missing or may not be written. The earlier file is intact.
    """
    path = Path(path)
    # A short name of its own: appending to a name of 255 bytes would fail.
    temporary = path.parent / f".llmbind-{secrets.token_hex(8)}.tmp"
    try:
        # 0o666 lets the umask decide, as for any file that a program creates.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_directory(staging: Path, target: Path) -> None:
    """Puts a finished directory in the place of `target` in one step.

    Every file is flushed to the disk first. An earlier `target` is exchanged with `staging` by the
    kernel, so at every moment one whole directory stands there, and removed afterwards. Where the
    file system cannot exchange (some network ones), the earlier directory is renamed aside for an
    instant; `recover_directory` undoes a kill that falls into it.

    Args:
        staging: The new directory, in the same folder as `target`. It is gone afterwards.
        target: Where it is to stand.

    Raises:
        ValueError: `staging` is not in the folder of `target`, so a rename might be a copy.
        StorageError: The disk is full or failing. `target` is as it was, `staging` is removed.
        OutputError: The folder may not be written. `target` is as it was, `staging` is removed.
    """
    staging, target = Path(staging), Path(target)
    if staging.parent.resolve() != target.parent.resolve():
        raise ValueError(f"staging must lie beside {target}, got {staging}")
    try:
        for folder, _, names in os.walk(staging):
            for name in names:
                _sync(Path(folder, name))
            _sync_folder(Path(folder))
        recover_directory(target)
        if not target.exists():
            staging.rename(target)
        elif not _exchange(staging, target):
            aside = _aside(target)
            target.rename(aside)
            staging.rename(target)
            shutil.rmtree(aside)
        _sync_folder(target.parent)
    except OSError as error:
        recover_directory(target)
        shutil.rmtree(staging, ignore_errors=True)
        raise storage_error(target, error) from error
    shutil.rmtree(staging, ignore_errors=True)


def recover_directory(target: Path) -> None:
    """Brings back a directory whose replacement was killed between its two renames.

    Args:
        target: The directory as `replace_directory` got it. Nothing happens when it is there.
    """
    aside = _aside(target)
    if aside.is_dir() and not target.exists():
        aside.rename(target)
    elif aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.previous"


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two directories through `renameat2`; False where libc or file system lacks it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    paths = os.fsencode(first), os.fsencode(second)
    return bool(rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
