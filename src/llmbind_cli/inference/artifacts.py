"""The output folder: file names from item ids, whole files only, and the manifest beside them.

Writes follow one order: the file, flushed and renamed into place; then its manifest line, flushed.
A run killed in between leaves a whole file without a line, and the rerun makes the same file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from llmbind_cli.errors import InputDataError, LlmbindError, OutputError, error_of
from llmbind_cli.generators.base import GeneratedArtifact
from llmbind_cli.inference.json_lines import append_lines, commit_lock, to_json
from llmbind_cli.inference.shards import Shard
from llmbind_cli.weights.atomic import storage_error, write_atomically
from llmbind_cli.weights.file_names import file_stem
from llmbind_cli.weights.hashes import sha256_file

MANIFEST = "manifest.jsonl"
STATUSES = ("ok", "failed", "skipped", "empty")


@dataclass(frozen=True, kw_only=True)
class ArtifactFile:
    """One file of a result.

    Attributes:
        path: The folder as ``--out`` named it, and the file's name.
        sha256: 64 hexadecimal digits.
        media_type: For example ``image/png``.
    """

    path: str
    sha256: str
    media_type: str


@dataclass(frozen=True, kw_only=True)
class ResultLine:
    """What became of one task of one item: a line of ``--json`` and of the manifest.

    Attributes:
        id: The item's id as its input line gave it.
        status: ``ok``, ``failed``, ``skipped`` or ``empty``.
        task: Task name of the token table, or ``text``.
        prompt: What the generator was given.
        reply: The model's whole reply; ``None`` where none was asked.
        files: What was written.
        seed: The item's own seed.
        model: What answered or drew.
        seconds: Wall time spent on this item, its share of the batch it ran in.
        error: The failure; ``None`` unless ``status`` is ``failed`` or ``empty``.
        extra: Unknown fields of the input line, carried through.
    """

    id: str
    status: str
    task: str
    prompt: str
    reply: str | None
    files: tuple[ArtifactFile, ...] = ()
    seed: int | None
    model: str
    seconds: float
    error: LlmbindError | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        if (self.status == "failed") and self.error is None:
            raise ValueError("a failed result needs its error")
        if self.status == "ok" and self.error is not None:
            raise ValueError(f"an ok result has no error, got {self.error!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return the line's JSON object; ``extra`` appears only where there is some."""
        error = self.error
        fields: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "task": self.task,
            "prompt": self.prompt,
            "reply": self.reply,
            "files": [asdict(file) for file in self.files],
            "seed": self.seed,
            "model": self.model,
            "seconds": round(self.seconds, 3),
            "error": error and {"code": error.exit_code, "message": str(error)},
        }
        if self.extra:
            fields["extra"] = dict(self.extra)
        return fields

    def to_json(self) -> str:
        """Return the line without its end; always valid UTF-8 when encoded."""
        return to_json(self.as_dict())

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, out: Path) -> ResultLine:
        """Return the result that a line of a manifest records.

        Args:
            fields: The line's object.
            out: The manifest's folder; the files lie in it, whatever it was called then.

        Raises:
            InputDataError: The object is no result line.
        """
        try:
            error = fields["error"]
            return cls(
                id=fields["id"],
                status=fields["status"],
                task=fields["task"],
                prompt=fields["prompt"],
                reply=fields["reply"],
                files=tuple(
                    ArtifactFile(**{**file, "path": str(out / Path(file["path"]).name)})
                    for file in fields["files"]
                ),
                seed=fields["seed"],
                model=fields["model"],
                seconds=fields["seconds"],
                error=error and error_of(error["code"], error["message"]),
                extra=fields.get("extra", {}),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise InputDataError(f"{out}: a manifest line is no result: {problem}") from problem


def manifest_path(out: Path, shard: Shard) -> Path:
    """Return where the manifest of a shard lies, or that of a job in one part."""
    return out / f"manifest{shard.suffix}.jsonl"


class ArtifactFolder:
    """One ``--out`` folder. Making one checks that it can be written, before any model loads."""

    def __init__(self, *, out: Path, shard: Shard | None = None, replaces: bool = False) -> None:
        """Create the folder where it is missing, and try a file in it.

        Args:
            out: The folder; it may itself be a link.
            shard: The part of a job that is done here; parts share a folder, not a manifest.
            replaces: A file that stands under the name of a new one gives way to it.

        Raises:
            OutputError: It cannot be created or written, or its manifest is a link that leaves it.
            StorageError: The disk is full or failing.
        """
        self.out = out
        self.replaces = replaces
        self._shard = shard or Shard()
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._root = out.resolve()
            # Permission bits say nothing to root or on a read-only mount; a file does.
            with tempfile.TemporaryFile(dir=out):
                pass
        except OSError as error:
            raise storage_error(out, error) from error
        self._refuse_escape(self.manifest)

    @property
    def manifest(self) -> Path:
        """The manifest, one :class:`ResultLine` a line; it appears with the first of them."""
        return manifest_path(self.out, self._shard)

    @property
    def lock(self) -> Path:
        """The file that a run locks for as long as it works here."""
        return self.out / f".lock{self._shard.suffix}"

    def save(
        self, artifact: GeneratedArtifact, *, item_id: str, task: str, index: int
    ) -> ArtifactFile:
        """Write one file as ``ID-TASK-INDEX.SUFFIX``, whole or not at all.

        Unless the folder ``replaces`` files, one of that name with other content, from an earlier
        run or altered since, stays as it is: the new file then carries 8 digits of its SHA-256 in
        its name as well.

        Args:
            artifact: The file's bytes.
            item_id: The item's id, any text.
            task: The task that made it.
            index: Position of the call in its reply, from 0.

        Raises:
            OutputError: The file cannot be written, or its name is a link that leaves the folder.
            StorageError: The disk is full or failing; what stood in the folder is intact.
            LockHeldError: Another process kept the folder's manifest locked for a minute.
        """
        digest = hashlib.sha256(artifact.payload).hexdigest()
        stem = f"{file_stem(item_id)}-{task}-{index}"

        def write(stream: BinaryIO) -> None:
            stream.write(artifact.payload)

        with commit_lock(self.manifest):
            for name in (stem, f"{stem}-{digest[:8]}", f"{stem}-{digest}"):
                path = self.out / f"{name}{artifact.suffix}"
                self._refuse_escape(path)
                is_same = path.is_file() and sha256_file(path) == digest
                if not is_same and os.path.lexists(path) and not self.replaces:
                    continue
                if not is_same:
                    write_atomically(path, write)
                return ArtifactFile(path=str(path), sha256=digest, media_type=artifact.media_type)
        raise OutputError(
            f"{path}: an altered file stands under every name that this result may take; move it "
            f"away"
        )

    def append(self, line: ResultLine) -> None:
        """Add a line to the manifest and flush it to the disk.

        What a killed run left of an unfinished last line is dropped first.

        Raises:
            OutputError: The manifest cannot be written.
            StorageError: The disk is full or failing; the manifest is as it was.
            LockHeldError: Another process kept it locked for a minute.
        """
        self._refuse_escape(self.manifest)
        append_lines(self.manifest, [line.to_json()])

    def _refuse_escape(self, path: Path) -> None:
        if path.is_symlink() and not path.resolve().is_relative_to(self._root):
            raise OutputError(
                f"{path}: is a link that leaves {self.out}; remove it or choose another --out"
            )
