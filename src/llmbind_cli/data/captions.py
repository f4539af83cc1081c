"""Captions: what pictures, clips and sounds of a collection show, one text each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError

_COLUMNS = (
    "caption",
    "captions",
    "sentence",
    "text",
    "description",
    "raw_caption",
    "image_captions",
    "video_captions",
    "audio_captions",
)
"""Names under which collections keep a caption, most usual first; T2X has the last three."""

_LISTS = ("annotations", "sentences", "images", "data", "records")
"""Where a JSON object keeps its records: COCO captions, MSR-VTT, Karpathy splits, others."""


@dataclass(frozen=True)
class CaptionSets:
    """Captions by the medium that they were written for.

    Attributes:
        image: Captions of pictures.
        video: Captions of clips.
        audio: Captions of sounds.
    """

    image: tuple[str, ...] = ()
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()


def read_captions(path: str | Path) -> tuple[str, ...]:
    """Read the captions of a file.

    Args:
        path: ``.txt`` with one caption a line; ``.csv`` or ``.tsv`` with a header that names a
            caption column; ``.jsonl`` with a string or an object a line; ``.json`` with strings,
            objects (T2X), lists of strings by key, or the layouts of COCO captions and MSR-VTT.

    Returns:
        The captions in file order, white space folded, without repetitions.

    Raises:
        InputDataError: The file cannot be read, is of another kind, or has a record without a
            caption; the message names file and line or record.
    """
    file = Path(path)
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise InputDataError(
            f"{file}: captions are read from {', '.join(sorted(_READERS))}, not from "
            f"{file.suffix or 'a file without a suffix'}"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputDataError(f"{file}: not UTF-8 at byte {error.start}; convert it first") from None
    except OSError as error:
        raise InputDataError(f"{file}: cannot be read: {error.strerror or error}") from None
    folded = (" ".join(caption.split()) for caption in reader(file, text))
    captions = tuple(dict.fromkeys(caption for caption in folded if caption))
    if not captions:
        raise InputDataError(f"{file}: holds no caption")
    return captions


def _from_txt(file: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield from _captions_of(line, f"{file}: line {number}")


def _from_table(file: Path, text: str) -> Iterator[str]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        column = next((header.index(name) for name in _COLUMNS if name in header), None)
        if column is None:
            raise InputDataError(
                f"{file}: line 1: no caption column among {', '.join(header) or 'nothing'}; "
                f"known: {', '.join(_COLUMNS)}"
            )
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise InputDataError(
                    f"{file}: line {rows.line_num}: {len(row)} fields, but the header has "
                    f"{len(header)}"
                )
            yield from _captions_of(row[column], f"{file}: line {rows.line_num}")
    except csv.Error as error:
        raise InputDataError(f"{file}: line {rows.line_num}: {error}") from None


def _from_jsonl(file: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputDataError(f"{file}: line {number}: {error.msg}") from None
            except RecursionError:
                raise InputDataError(f"{file}: line {number}: brackets nest too deep") from None
            yield from _captions_of(record, f"{file}: line {number}")


def _from_json(file: Path, text: str) -> Iterator[str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputDataError(f"{file}: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise InputDataError(f"{file}: brackets nest too deep") from None
    if isinstance(content, dict):
        for name in _LISTS:
            if isinstance(content.get(name), list) and _has_captions(content[name]):
                content = content[name]
                break
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _captions_of(value, f"{file}: key {key!r}")
        return
    if not isinstance(content, list):
        raise InputDataError(f"{file}: expected a list or an object, got {content!r:.40}")
    for index, record in enumerate(content):
        yield from _captions_of(record, f"{file}: record {index}")


def _has_captions(records: list[Any]) -> bool:
    return bool(records) and (
        isinstance(records[0], str)
        or (isinstance(records[0], dict) and any(name in records[0] for name in _COLUMNS))
    )


def _captions_of(record: Any, where: str) -> Iterator[str]:
    """Yield the caption or captions of a string, an object, or a list of them."""
    if isinstance(record, str):
        if not record.strip():
            raise InputDataError(f"{where}: the caption is empty")
        if "\0" in record or any("\ud800" <= character <= "\udfff" for character in record):
            raise InputDataError(f"{where}: the caption holds a NUL or half of a character")
        yield record
    elif isinstance(record, list) and record:
        for entry in record:
            yield from _captions_of(entry, where)
    elif isinstance(record, dict):
        name = next((name for name in _COLUMNS if name in record), None)
        if name is None:
            raise InputDataError(
                f"{where}: no caption among {', '.join(map(str, record)) or 'no fields'}; "
                f"known: {', '.join(_COLUMNS)}"
            )
        yield from _captions_of(record[name], where)
    else:
        raise InputDataError(f"{where}: expected a caption, got {record!r:.40}")


_READERS = {
    ".txt": _from_txt,
    ".csv": _from_table,
    ".tsv": _from_table,
    ".jsonl": _from_jsonl,
    ".json": _from_json,
}
