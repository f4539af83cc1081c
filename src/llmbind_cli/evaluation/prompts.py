"""The words that media are scored by: a file of prompts, or those in a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError, UsageError
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.media_set import json_lines, normalised
from llmbind_cli.weights.hashes import sha256_file

AFTER, BEFORE = "prompt", "source"
"""Keys of a line: the words for what was made, and, for an edit, those for what it was made of."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Words by id.

    Attributes:
        path: Where they stand.
        words: Id → the words for what was made.
        before: Id → the words for the original, where a line has them.
        sha256: Of the file; of a manifest, of its words alone.
    """

    path: str
    words: dict[str, str]
    before: dict[str, str]
    sha256: str


def read_prompts(
    prompts: Path | None, predictions: Path, *, first_of_each: bool = False
) -> Prompts:
    """Read the words that a scoring needs.

    Args:
        prompts: A file of lines with ``id`` and ``prompt``, for edits ``source`` too; ``None``: the
            prompts in the manifest of the predictions.
        predictions: A folder with a manifest, or a manifest; else ``prompts`` is needed.
        first_of_each: Of several lines that a manifest has of an id, take the first.

    Raises:
        UsageError: There is neither a file of prompts nor a manifest.
        InputDataError: A line is broken or has no words, or two lines of an id differ otherwise.
    """
    if prompts is not None:
        files = [prompts]
    elif predictions.is_dir():
        files = sorted(predictions.glob("manifest*.jsonl"))
    else:
        files = [predictions] if predictions.suffix == ".jsonl" else []
    if not files:
        raise UsageError(
            f"{predictions}: has no manifest that tells the prompts; give them with --prompts "
            'FILE.jsonl, a line {"id": …, "prompt": …} for each'
        )
    words: dict[str, str] = {}
    before: dict[str, str] = {}
    faults = FaultList(place=", ".join(map(str, files)))
    for file in files:
        for place, fields in _lines(file, faults):
            if prompts is None and fields.get("status") != "ok":
                continue  # a manifest keeps the line of a call that failed and was run again
            if prompts is None and first_of_each and normalised(fields["id"]) in words:
                continue
            for key, found in ((AFTER, words), (BEFORE, before)):
                _take(found, fields, key, place, faults)
    faults.raise_if_any()
    return Prompts(
        path=str(prompts or predictions),
        words=words,
        before=before,
        sha256=_digest_of(words, before) if prompts is None else sha256_file(prompts),
    )


def _digest_of(words: dict[str, str], before: dict[str, str]) -> str:
    """Hash the words alone, as a manifest also tells of the files that were made."""
    rows = (json.dumps([item, words[item], before.get(item)]) for item in sorted(words))
    return hashlib.sha256("".join(f"{row}\n" for row in rows).encode()).hexdigest()


def _lines(file: Path, faults: FaultList) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        return list(json_lines(file))
    except InputDataError as error:
        faults.add(error)
        return []


def _take(
    found: dict[str, str], fields: dict[str, Any], key: str, place: str, faults: FaultList
) -> None:
    item, text = normalised(fields["id"]), fields.get(key)
    if text is None and key == BEFORE:
        return
    if not isinstance(text, str) or not text.strip():
        faults.add(f"{place}: {item}: {key} must be a text that is not empty")
    elif found.setdefault(item, text) != text:
        faults.add(f"{place}: {item}: has another {key} before")
