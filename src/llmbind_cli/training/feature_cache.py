"""What the frozen networks give, kept on the disk between epochs and runs.

The towers are 22 to 41 % of a training step at 7 B, and they see the same pictures in each epoch.
An entry is named by a hash over the network's weights, the way pictures are made ready for it, the
settings by which its output is chosen, and the picture's own content; so a change of any of these
gives another entry. Entries are float16, also in the run that makes them: whether a feature comes
from the disk or was just computed changes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from llmbind_cli.errors import OutputError
from llmbind_cli.weights.atomic import storage_error, write_atomically

_SUFFIX = ".safetensors"
_ROOM_FREED = 0.9
"""A full cache is brought down to this share of its budget, so that it has room for a while."""


class FeatureCache:
    """A folder of features with a budget.

    Args:
        folder: Made where it is missing. Several processes may share it.
        budget_bytes: Most room that the entries take, > 0; the least recently used leave first.
        identities: Name of a network → all that its output hangs on beside the picture.

    Attributes:
        hits: Entries that were found.
        misses: Entries that were made.

    Raises:
        OutputError: The folder cannot be written.
        ValueError: The budget is not > 0.
    """

    def __init__(self, folder: Path, *, budget_bytes: int, identities: Mapping[str, str]) -> None:
        if budget_bytes <= 0:
            raise ValueError(f"budget_bytes must be > 0, got {budget_bytes}")
        self._folder = folder
        self._budget = budget_bytes
        self._identities = dict(identities)
        self.hits = self.misses = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: cannot be written; choose another sight.cache.dir")
        self._used = sum(path.stat().st_size for path in folder.glob(f"*/*{_SUFFIX}"))

    def get(
        self, network: str, picture_sha256: str, compute: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Return what a network gives for a picture, from the disk where it is there.

        Args:
            network: A key of ``identities``.
            picture_sha256: Hash of the picture's content.
            compute: Runs the network, for one picture.

        Returns:
            Float32 tensors on the CPU, of float16's precision.

        Raises:
            StorageError: The disk is failing.
            OutputError: The folder cannot be written any more.
        """
        path = self._path(network, picture_sha256)
        found = _read(path)
        if found is not None:
            self.hits += 1
            os.utime(path)  # what is used stays
            return found
        self.misses += 1
        rounded = tuple(tensor.detach().half().cpu().contiguous() for tensor in compute())
        self._write(path, rounded)
        return tuple(tensor.float() for tensor in rounded)

    def _path(self, network: str, picture_sha256: str) -> Path:
        text = f"{network}\0{self._identities[network]}\0{picture_sha256}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}{_SUFFIX}"

    def _write(self, path: Path, tensors: tuple[Tensor, ...]) -> None:
        from safetensors.torch import save

        content = save({str(number): tensor for number, tensor in enumerate(tensors)})
        if len(content) > self._budget:
            return
        if self._used + len(content) > self._budget:
            self._make_room(len(content))

        def write(stream: BinaryIO) -> None:
            stream.write(content)

        path.parent.mkdir(exist_ok=True)
        write_atomically(path, write)
        self._used += len(content)

    def _make_room(self, wanted: int) -> None:
        """Remove the entries that were not used for longest."""
        entries = []
        for path in self._folder.glob(f"*/*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
        self._used = sum(size for _, size, _ in entries)
        goal = min(self._budget - wanted, _ROOM_FREED * self._budget)
        for _, size, path in sorted(entries):
            if self._used <= goal:
                break
            path.unlink(missing_ok=True)
            self._used -= size


def _read(path: Path) -> tuple[Tensor, ...] | None:
    """Return the tensors of an entry; ``None`` where it is not there or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return tuple(tensors[str(number)].to(torch.float32) for number in range(len(tensors)))
