"""Which weights answer and draw, told without loading them.

A folder is told by a hash of its content. Hashing gigabytes at each start would cost more than
loading them, so the sizes and times of its files are kept beside the hash, and while those are as
they were the hash is taken as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmbind_cli.errors import LlmbindError
from llmbind_cli.generators.plugins import find_plugin
from llmbind_cli.generators.registry import MODALITIES, GeneratorRegistry
from llmbind_cli.model.bundle_folder import fingerprint, shaping_files
from llmbind_cli.model.config import BundleConfig


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One set of weights.

    Attributes:
        name: What people call it: a bundle's name, a folder's last part, a pinned hub source, or an
            installed generator with its distribution.
        sha256: Hash of a folder's content; ``None`` where the name alone pins it.
        stamp: Hash of the sizes and times of the folder's files; ``None`` where the name pins it.
    """

    name: str
    sha256: str | None = None
    stamp: str | None = None

    def __str__(self) -> str:
        return self.name if self.sha256 is None else f"{self.name}@{self.sha256[:12]}"

    def differs(self, other: Identity) -> bool:
        """Say whether these are other weights; a folder that was only renamed or copied is not."""
        if self.sha256 is not None and other.sha256 is not None:
            return self.sha256 != other.sha256
        return (self.name, self.sha256) != (other.name, other.sha256)


def bundle_identity(folder: Path, *, known: Identity | None) -> Identity:
    """Return the identity of a bundle; its text is the name that results give the model.

    Args:
        folder: The bundle's directory.
        known: What it was last time.

    Raises:
        ModelNotFoundError: No bundle is there.
        IntegrityError: Its configuration cannot be read.
    """
    name = BundleConfig.read(folder).name
    return _of_folder(folder, name, files=shaping_files(folder), hash_of=fingerprint, known=known)


def generator_identities(
    registry: GeneratorRegistry, *, named: Iterable[str], known: Mapping[str, Identity]
) -> dict[str, Identity]:
    """Return the identity of each generator that a job can call.

    Args:
        registry: Knows the sources.
        named: Modalities whose generator the user named; each must be there.
        known: Modality → what it was last time.

    Raises:
        LlmbindError: A generator that the user named is not there or cannot be run.
    """
    found: dict[str, Identity] = {}
    for modality in MODALITIES:
        try:
            source = registry.check(modality)
        except LlmbindError:
            if modality in named:
                raise
            continue
        found[modality] = _generator_identity(source, known.get(modality))
    return found


def _generator_identity(source: str, known: Identity | None) -> Identity:
    folder = Path(source).expanduser()
    entry = find_plugin(source)
    if entry is not None:
        made_by = f" of {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
        return Identity(name=f"{source}{made_by}")
    if not folder.is_dir():
        return Identity(name=source)  # a hub source, which pins its revision

    def hash_of(folder: Path) -> str:
        # Not at the top: torch is imported with it.
        from llmbind_cli.generators.pipeline_folder import fingerprint as pipeline_fingerprint

        return pipeline_fingerprint(folder)

    # The last part only: files that are passed on should not tell where they were made.
    name = folder.resolve().name
    return _of_folder(folder, name, files=folder.rglob("*"), hash_of=hash_of, known=known)


def _of_folder(
    folder: Path,
    name: str,
    *,
    files: Iterable[Path],
    hash_of: Callable[[Path], str],
    known: Identity | None,
) -> Identity:
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        status = path.stat()
        place = path.relative_to(folder).as_posix()
        digest.update(f"{place}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    stamp = digest.hexdigest()
    if known is not None and known.stamp == stamp and known.sha256 is not None:
        return Identity(name=name, sha256=known.sha256, stamp=stamp)
    return Identity(name=name, sha256=hash_of(folder), stamp=stamp)
