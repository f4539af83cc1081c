"""One entry of the weight cache: a directory that is made once, by one process, and then only read.

* `CACHE/weights/KEY/`: `llmbind-source.json`, and the model where it was converted.
* `CACHE/weights/.KEY.lock`: one process at a time makes an entry.
* `CACHE/weights/.KEY.staging-*`: an entry in the making.

An entry is made in staging and renamed when whole, so a reader needs no lock. Staging that a killed
process left behind is swept up by the next one that makes the entry.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.weights.atomic import recover_directory, replace_directory, storage_error
from llmbind_cli.weights.lock import exclusive_lock
from llmbind_cli.weights.record import SourceRecord

_LOCK_WAIT_S = 3600.0  # a large model over a slow line; a dead holder frees the lock at once


class CacheEntry:
    """The place of one source in the cache.

    Args:
        folder: The folder of all entries; created when an entry is made.
        key: Name of the entry.

    Attributes:
        path: Directory of the entry. It exists only once it is whole.
    """

    def __init__(self, *, folder: Path, key: str) -> None:
        if not key or "/" in key:
            raise ValueError(f"key must be a file name, got {key!r}")
        self.path = folder / key

    def record(self) -> SourceRecord | None:
        """Reads what the entry says of itself; None when there is no readable entry."""
        return SourceRecord.load(self.path)

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Locks the entry and gives an empty staging directory, which is removed afterwards.

        Yields:
            The staging directory, to be filled and handed to `publish`.

        Raises:
            LockHeldError: Another process has been making it for an hour.
            OutputError: The cache cannot be written.
            StorageError: The disk is full or failing.
        """
        folder, key = self.path.parent, self.path.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error
        with exclusive_lock(
            folder / f".{key}.lock",
            wait_s=_LOCK_WAIT_S,
            on_wait=lambda: console.log(f"waiting for another process that makes {key}"),
        ):
            for abandoned in folder.glob(f".{key}.staging-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            recover_directory(self.path)
            staging = folder / f".{key}.staging-{secrets.token_hex(4)}"
            try:
                staging.mkdir()
            except OSError as error:
                raise storage_error(staging, error) from error
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def publish(self, staging: Path, record: SourceRecord) -> Path:
        """Makes a filled staging directory the entry.

        Args:
            staging: What `making` gave.
            record: What the entry was made from.

        Returns:
            The directory that holds the model.

        Raises:
            OutputError: The cache cannot be written.
            StorageError: The disk is full or failing.
        """
        record.save(staging)
        replace_directory(staging, self.path)
        return record.root(self.path)
