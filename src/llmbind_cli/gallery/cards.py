"""What a gallery shows of an output folder, read from its manifests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError

MANIFESTS = "manifest*.jsonl"
"""A run writes one manifest into its folder, and each shard of a run one of its own."""


@dataclass(frozen=True, kw_only=True)
class CardFile:
    """One file of a card.

    Attributes:
        name: File name in the output folder.
        media_type: For example ``image/png``.
        exists: Whether it is there.
    """

    name: str
    media_type: str
    exists: bool


@dataclass(frozen=True, kw_only=True)
class Card:
    """One line of a manifest, as a gallery shows it.

    Attributes:
        id: The item's id.
        status: ``ok``, ``failed``, ``skipped`` or ``empty``.
        task: Task name, or ``text``.
        prompt: What the generator was given.
        reply: The model's whole reply.
        seed: The item's seed.
        model: What answered or drew.
        error: Message of the failure.
        files: What was written.
    """

    id: str
    status: str
    task: str
    prompt: str
    reply: str | None
    seed: int | None
    model: str
    error: str | None
    files: tuple[CardFile, ...]


def read_cards(folder: Path) -> list[Card]:
    """Return the results of an output folder, in the order in which they were made.

    A line that cannot be read, such as the torn last one of a killed run, is left out. Of several
    lines for one call, as a rerun writes them, the last one counts; but results with files of their
    own, as other settings of a generator give, all stay.

    Raises:
        InputDataError: The folder has no manifest.
    """
    manifests = sorted(folder.glob(MANIFESTS))
    if not manifests:
        raise InputDataError(f"{folder}: has no manifest.jsonl, so there is nothing to show")
    cards: dict[tuple[tuple[str, ...], tuple[str, ...]], Card] = {}
    for manifest in manifests:
        for fields in _lines(manifest):
            card = _card(fields, folder)
            if card.error is None:
                # A decision that failed before stands under no prompt.
                cards.pop(((card.id, "text", "", ""), ()), None)
            call = (card.id, card.task, card.prompt, str(card.seed or ""))
            names = tuple(file.name for file in card.files)
            # A failure made no files.
            cards.pop((call, ()), None)
            cards.pop((call, names), None)
            cards[call, names] = card
    return list(cards.values())


def _lines(manifest: Path) -> Iterable[Mapping[str, Any]]:
    try:
        raw = manifest.read_bytes()
    except OSError as error:
        raise InputDataError(f"{manifest}: cannot be read: {error.strerror}") from error
    for line in raw.splitlines():
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict) and isinstance(fields.get("id"), str):
            yield fields


def _card(fields: Mapping[str, Any], folder: Path) -> Card:
    error, reply, seed = fields.get("error"), fields.get("reply"), fields.get("seed")
    files = fields.get("files") or []
    return Card(
        id=fields["id"],
        status=str(fields.get("status", "")),
        task=str(fields.get("task", "text")),
        prompt=str(fields.get("prompt", "")),
        reply=None if reply is None else str(reply),
        seed=seed if isinstance(seed, int) else None,
        model=str(fields.get("model", "")),
        error=str(error.get("message", error)) if isinstance(error, dict) else None,
        files=tuple(_file(file, folder) for file in files if isinstance(file, dict)),
    )


def _file(fields: Mapping[str, Any], folder: Path) -> CardFile:
    # The name alone: the folder may have been moved since, and nothing outside it is shown.
    name = Path(str(fields.get("path", ""))).name
    return CardFile(
        name=name,
        media_type=str(fields.get("media_type", "")),
        exists=bool(name) and (folder / name).is_file(),
    )
