"""Features and statistics on disk, so that no file goes through a network twice.

A key is a hash over the extractor's weights, its preprocessing and the device; below it, features
lie by the hash of the file that they were taken of, and statistics by the hashes of all files of a
set. So a renamed file is found again, and an altered one is not.

Features are kept in packs of many rows, as a file for each picture would cost more to flush than
to compute. A clip or sound of many samples has as many rows, one after the other. A pack is written
whole or not at all and carries the hash of its content in its name; one that does not fit its name
is thrown away. What was not used for longest goes first where the cache outgrows its budget. A
cache that cannot be written is a warning, never an error.

    FOLDER/KEY/features-HASH.npy        rows of (SHA-256 of the file, arrays)
    FOLDER/KEY/statistics-SET-HASH.npz  n, mean, scatter
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.errors import LlmbindError, UsageError
from llmbind_cli.metrics.feature_statistics import FeatureStatistics
from llmbind_cli.weights.atomic import storage_error, write_atomically
from llmbind_cli.weights.cache import cache_dir

Array = np.ndarray[Any, Any]
Rows = dict[str, Array]
"""Name → [n, width], such as ``features`` and ``logits``."""

GIB = 1024**3
_FORMAT = "llmbind-features/1"
_DIGEST = "file"
_SHORT = 32


def cache_key(*, weights_sha256: str, preprocessing: str, device: str) -> str:
    """Return the key of an extractor: what a file's features depend on beside the file.

    Args:
        weights_sha256: Hash of its weights.
        preprocessing: The way from a file to its features, in words.
        device: ``cpu`` or ``cuda``, which differ in the last digits.
    """
    parts = json.dumps([_FORMAT, weights_sha256, preprocessing, device])
    return hashlib.sha256(parts.encode()).hexdigest()[:_SHORT]


def default_folder() -> Path:
    """Return the folder of the cache where none is named."""
    return cache_dir() / "features"


class FeatureCache:
    """A folder of features.

    Args:
        folder: Made at the first write.
        budget_bytes: Size that it is kept below, > 0.

    Raises:
        UsageError: The budget is not above 0, or the folder is a file.
    """

    def __init__(self, *, folder: Path, budget_bytes: int) -> None:
        if budget_bytes <= 0:
            raise UsageError(f"--cache-size must be > 0, got {budget_bytes / GIB:g}")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--cache-dir {folder}: is a file")
        self.folder = folder
        self.budget_bytes = budget_bytes
        self._packs: dict[str, list[Array]] = {}
        self._places: dict[str, dict[bytes, tuple[int, slice]]] = {}
        self._is_writable = True

    def read(self, key: str, digests: Sequence[str]) -> tuple[Array, Rows]:
        """Give what is there of some files.

        Args:
            key: Of :func:`cache_key`.
            digests: SHA-256 of each file.

        Returns:
            For each row the position in ``digests`` of its file, rising; and the rows.
        """
        index = self._index(key) if digests else {}
        found = [i for i, digest in enumerate(digests) if bytes.fromhex(digest) in index]
        if not found:
            return np.empty(0, dtype=np.int64), {}
        chosen = [index[bytes.fromhex(digests[i])] for i in found]
        packs = self._packs[key]
        names = set.intersection(*({*(packs[p].dtype.names or ())} for p in {p for p, _ in chosen}))
        rows = {
            name: np.concatenate([packs[pack][name][part] for pack, part in chosen])
            for name in sorted(names - {_DIGEST})
        }
        counts = [part.stop - part.start for _, part in chosen]
        return np.repeat(found, counts), {n: array.astype(np.float64) for n, array in rows.items()}

    def write(self, key: str, digests: Sequence[str], rows: Rows) -> None:
        """Keep the rows of some files, as float32 where that loses nothing.

        Args:
            key: Of :func:`cache_key`.
            digests: SHA-256 of each row's file; all rows of a file stand together, once.
            rows: The rows.
        """
        if not digests or not rows:
            return
        kept = {name: _narrowed(array) for name, array in rows.items()}
        fields: list[Any] = [(_DIGEST, "V32")]
        fields += [(name, array.dtype.str, array.shape[1:]) for name, array in kept.items()]
        pack = np.empty(len(digests), dtype=fields)
        pack[_DIGEST] = np.frombuffer(bytes.fromhex("".join(digests)), dtype="V32")
        for name, array in kept.items():
            pack[name] = array
        stream = io.BytesIO()
        np.save(stream, pack, allow_pickle=False)
        path = self._put(key, "features", ".npy", stream.getvalue())
        if path is not None and key in self._places:
            self._add_pack(key, path)

    def read_statistics(self, key: str, files: Mapping[str, str]) -> FeatureStatistics | None:
        """Give the statistics of a set of files, or ``None``.

        Args:
            key: Of :func:`cache_key`.
            files: Id → SHA-256 of each file.
        """
        for path in (self.folder / key).glob(f"statistics-{_set_digest(files)}-*.npz"):
            content = _verified(path)
            if content is None:
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                statistics = FeatureStatistics(width=len(stored["mean"]))
                statistics.n = int(stored["n"])
                statistics.mean, statistics.scatter = stored["mean"], stored["scatter"]
            return statistics
        return None

    def write_statistics(
        self, key: str, files: Mapping[str, str], statistics: FeatureStatistics
    ) -> None:
        """Keep the statistics of a set; arguments as for :meth:`read_statistics`."""
        stream = io.BytesIO()
        np.savez(
            stream,
            n=np.int64(statistics.n),
            mean=statistics.mean,
            scatter=statistics.scatter,
        )
        self._put(key, f"statistics-{_set_digest(files)}", ".npz", stream.getvalue())

    def _index(self, key: str) -> dict[bytes, tuple[int, slice]]:
        """Map the hash of each file to its pack and rows; packs are read once a run."""
        if key not in self._places:
            self._packs[key], self._places[key] = [], {}
            for path in sorted((self.folder / key).glob("features-*.npy")):
                if _verified(path) is not None:
                    self._add_pack(key, path)
        return self._places[key]

    def _add_pack(self, key: str, path: Path) -> None:
        try:
            pack = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):  # removed meanwhile
            return
        number = len(self._packs[key])
        self._packs[key].append(pack)
        digests = np.asarray(pack[_DIGEST])
        starts = np.flatnonzero(np.append(True, digests[1:] != digests[:-1]))
        for start, stop in zip(starts, [*starts[1:], len(digests)], strict=True):
            self._places[key][digests[start].tobytes()] = number, slice(start, stop)

    def _put(self, key: str, stem: str, suffix: str, content: bytes) -> Path | None:
        if not self._is_writable or len(content) > self.budget_bytes:
            return None
        digest = hashlib.sha256(content).hexdigest()[:_SHORT]
        path = self.folder / key / f"{stem}-{digest}{suffix}"
        try:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error(path.parent, error) from error
            write_atomically(path, lambda stream: stream.write(content))
        except LlmbindError as error:
            self._is_writable = False
            console.warn(f"features are not kept: {error}")
            return None
        self._make_room(path)
        return path

    def _make_room(self, newest: Path) -> None:
        files = sorted(self._files(), key=lambda entry: (entry[0] == newest, entry[2]))
        total = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if total <= self.budget_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        for path in self.folder.glob("*/*.np[yz]"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another run made room
                continue
            yield path, status.st_size, status.st_mtime_ns


def _set_digest(files: Mapping[str, str]) -> str:
    listed = "\n".join(sorted(files.values()))
    return hashlib.sha256(listed.encode()).hexdigest()[:_SHORT]


def _verified(path: Path) -> bytes | None:
    """Read a file of the cache and note its use; one that is not what its name says is removed."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest()[:_SHORT] != path.stem.rpartition("-")[2]:
        path.unlink(missing_ok=True)
        return None
    with suppress(OSError):  # a cache of another user's may still be read
        os.utime(path)
    return content


def _narrowed(array: Array) -> Array:
    narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), array) else array
