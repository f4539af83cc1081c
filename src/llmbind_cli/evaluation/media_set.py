"""Predictions or references on disk: a folder of files, or a manifest that names them.

An item's id is the file's path below the folder without its suffix, or the ``id`` of its manifest
line. A folder that holds a manifest of llmbind is read by it. Ids are compared in Unicode's form
NFC, so that names from other file systems match.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.faults import FaultList, listed
from llmbind_cli.weights.hashes import sha256_file

_MANIFESTS = "manifest*.jsonl"
_SUFFIX = ".jsonl"


@dataclass(frozen=True, kw_only=True)
class MediaSet:
    """Files to score, or to score against.

    Attributes:
        path: The folder or manifest as the user named it.
        kind: ``folder`` or ``manifest``.
        files: Id → file, sorted by id.
        digests: Id → SHA-256 of its file, in the same order.
        sha256: Over the ids and the hashes of the files; see :func:`digest_of`.
        left_out: Ids of which a manifest has further files, which are left out.
    """

    path: str
    kind: Literal["folder", "manifest"]
    files: dict[str, Path]
    digests: dict[str, str]
    sha256: str
    left_out: tuple[str, ...] = ()


def read_media_set(path: Path, *, first_of_each: bool = False) -> MediaSet:
    """Find the files of a folder or manifest, and hash them.

    Args:
        path: A folder, or a ``.jsonl`` file in the format of ``llmbind``'s manifests.
        first_of_each: Of several files that a manifest has of an id, take the first.

    Raises:
        InputDataError: It is missing or empty, other files share an id, a manifest line is broken
            or tells of a failure, or a file is missing or not the one that the manifest hashed.
    """
    manifests = manifests_of(path)
    if manifests:
        found = list(_of_manifests(manifests))
    elif path.is_dir():
        found = list(_of_folder(path))
    elif path.exists():
        raise InputDataError(f"{path}: give a folder, or a manifest that ends in {_SUFFIX}")
    else:
        raise InputDataError(f"{path}: no such file or folder")
    if not found:
        raise InputDataError(f"{path}: holds no file to score")
    files: dict[str, Path] = {}
    twice: dict[str, list[str]] = {}
    for item, file in found:
        if item in files:
            twice.setdefault(item, [files[item].name]).append(file.name)
        files.setdefault(item, file)
    if twice and not (first_of_each and manifests):
        names = [f"{item} ({', '.join(same)})" for item, same in sorted(twice.items())]
        hint = "; --first-of-each scores the first of each" if manifests else ""
        raise InputDataError(f"{path}: several files share an id: {listed(names)}{hint}")
    files = dict(sorted(files.items()))
    digests = {item: sha256_file(file) for item, file in files.items()}
    return MediaSet(
        path=str(path),
        kind="manifest" if manifests else "folder",
        files=files,
        digests=digests,
        sha256=digest_of(digests),
        left_out=tuple(sorted(twice)),
    )


def manifests_of(path: Path) -> list[Path]:
    """Give the manifests that a folder holds, or the one that the path is itself."""
    if path.is_file() and path.suffix == _SUFFIX:
        return [path]
    return sorted(path.glob(_MANIFESTS)) if path.is_dir() else []


def count_items(path: Path) -> int | None:
    """Count what a folder or a file of lines holds, without reading it; ``None`` for others."""
    if manifests := manifests_of(path):
        return len({fields["id"] for m in manifests for _, fields in last_lines(m)})
    return sum(1 for _ in _of_folder(path)) if path.is_dir() else None


def digest_of(digests: dict[str, str]) -> str:
    """Hash a set: the SHA-256 of the lines ``HASH  ID``, sorted by id in byte order.

    Args:
        digests: Id → SHA-256 of its file.
    """
    rows = sorted((item.encode(errors="surrogateescape"), digests[item]) for item in digests)
    return hashlib.sha256(b"".join(d.encode() + b"  " + i + b"\n" for i, d in rows)).hexdigest()


def pair_up(predictions: MediaSet, references: MediaSet) -> list[tuple[str, Path, Path]]:
    """Pair files by id.

    Returns:
        Id, prediction and reference, sorted by id.

    Raises:
        InputDataError: An id is on one side alone; all such ids are listed (fault 56).
    """
    require_same_ids(
        predictions.path, list(predictions.files), references.path, list(references.files)
    )
    return [(item, file, references.files[item]) for item, file in predictions.files.items()]


def require_same_ids(
    prediction_path: str, predicted: Iterable[str], reference_path: str, referred: Iterable[str]
) -> None:
    """Refuse two sets of ids that differ, with the ids that each side lacks.

    Raises:
        InputDataError: They differ (fault 56).
    """
    made, true = set(predicted), set(referred)
    parts = []
    if lacking := sorted(true - made):
        parts.append(
            f"{prediction_path} lacks {len(lacking)} of the {len(true)} ids of "
            f"{reference_path}: {listed(lacking)}"
        )
    if lacking := sorted(made - true):
        parts.append(
            f"{reference_path} lacks {len(lacking)} of the {len(made)} ids of "
            f"{prediction_path}: {listed(lacking)}"
        )
    if parts:
        raise InputDataError("; ".join(parts))


def require_unique_ids(path: Path, ids: Iterable[str]) -> None:
    """Refuse lines that share an id, as only one of them could count.

    Raises:
        InputDataError: Lists the ids.
    """
    if twice := [item for item, count in sorted(Counter(ids).items()) if count > 1]:
        raise InputDataError(f"{path}: several lines share an id: {listed(twice)}")


def normalised(item: str) -> str:
    """Return an id in the form in which ids are compared."""
    return unicodedata.normalize("NFC", item)


def _of_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        below = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in below.parts):
            yield normalised(below.with_suffix("").as_posix()), file


def _of_manifests(manifests: list[Path]) -> Iterator[tuple[str, Path]]:
    for manifest in manifests:
        faults = FaultList(place=str(manifest))
        for place, fields in last_lines(manifest):
            try:
                yield from files_of_line(fields, manifest.parent, place)
            except InputDataError as error:
                faults.add(error)
        faults.raise_if_any()


def last_lines(manifest: Path) -> list[tuple[str, dict[str, Any]]]:
    """Give the lines of a manifest that count: a rerun appends its own after the earlier ones."""
    kept: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}
    for place, fields in json_lines(manifest):
        if fields.get("status") == "ok":
            for key in [k for k in kept if k[0] == fields["id"]]:
                if kept[key][1].get("status") != "ok":
                    del kept[key]
        key = tuple(str(fields.get(name)) for name in ("id", "task", "prompt", "seed"))
        kept[key] = place, fields
    return list(kept.values())


def result_lines(path: Path, *, scored: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines that count of the manifests of a path, each with its place.

    Args:
        path: A manifest, or a folder with some.
        scored: What they tell, for messages.

    Raises:
        InputDataError: There is no manifest.
    """
    manifests = manifests_of(path)
    if not manifests:
        raise InputDataError(f"{path}: to score {scored}, give a manifest, or a folder with one")
    for manifest in manifests:
        yield from last_lines(manifest)


def files_of_line(fields: dict[str, Any], folder: Path, place: str) -> Iterator[tuple[str, Path]]:
    """Yield id and file of each file of a manifest's line.

    Raises:
        InputDataError: The line tells of a failure or has no files, or one is missing or altered.
    """
    item, status = fields["id"], fields.get("status")
    if status != "ok":
        error = fields.get("error")
        reason = f": {error['message']}" if isinstance(error, dict) and "message" in error else ""
        raise InputDataError(f"{place}: {item} has the status {status}{reason}")
    files = fields.get("files")
    if not isinstance(files, list) or not files:
        raise InputDataError(f"{place}: {item} has no files")
    for entry in files:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise InputDataError(f"{place}: {item}: each of its files needs a path")
        # `--out` stands before the name, and the folder may have been moved since.
        named = Path(entry["path"])
        choices = (folder / named, folder / named.name)
        file = next((choice for choice in choices if choice.is_file()), None)
        if file is None:
            raise InputDataError(f"{place}: {item}: there is no file {named.name} in {folder}")
        expected = entry.get("sha256")
        if expected is not None and sha256_file(file) != expected:
            raise InputDataError(f"{place}: {item}: {file} is not the file that was hashed here")
        yield normalised(item), file


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``file:line`` and object of each line with an ``id``; empty lines are passed over.

    Raises:
        InputDataError: The file cannot be read, or a line is no JSON object with a text ``id``.
    """
    for place, fields in json_objects(path):
        if not isinstance(fields.get("id"), str):
            raise InputDataError(f"{place}: is no JSON object with a text id")
        yield place, fields


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``file:line`` and object of each line; empty lines are passed over.

    Raises:
        InputDataError: The file cannot be read, or a line is no JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputDataError(f"{path}:{number}: is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputDataError(f"{path}:{number}: is no JSON object with a text id")
        yield f"{path}:{number}", fields
