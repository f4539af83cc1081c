"""Requests: one from the command line, or one a line from a file or stdin."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbind_cli.data.pictures import is_there
from llmbind_cli.errors import InputDataError, LlmbindError
from llmbind_cli.generators.base import SEED_LIMIT
from llmbind_cli.model.chat_format import ChatTurn
from llmbind_cli.tokens import require_whole_characters

_KNOWN = frozenset({"id", "prompt", "image", "modality", "seed", "history", "reply"})
_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one user wants.

    Attributes:
        id: Name of the item in results.
        prompt: The user's words.
        history: Earlier turns of the conversation. In a ``gpt`` turn task tags count as task
            tokens, as in training records; in a ``human`` turn they are text.
        images: Pictures attached to the prompt.
        earlier_images: Pictures attached to the turns of the history, in order.
        modality: The modality the user fixed; ``None`` lets the model choose.
        seed: The item's own seed; ``None`` derives one from the run's seed and the id.
        reply: The right answer, for teacher forcing alone; task tags count as task tokens.
        extra: Unknown fields of the input line, carried through to the result.
    """

    id: str
    prompt: str
    history: tuple[ChatTurn, ...] = ()
    images: tuple[Path, ...] = ()
    earlier_images: tuple[Path, ...] = ()
    modality: str | None = None
    seed: int | None = None
    reply: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def turns(self) -> list[ChatTurn]:
        """Return the conversation that the model is to answer."""
        prompt = ChatTurn(role="user", content=self.prompt, num_images=len(self.images))
        return [*self.history, prompt]


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line that is no request.

    Attributes:
        id: Its id if it has one, else ``line-N``.
        error: What is wrong, with the line's number.
    """

    id: str
    error: LlmbindError


def read_stdin() -> str:
    """Read a prompt from stdin.

    Raises:
        InputDataError: It is empty or no UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputDataError(f"stdin is no UTF-8: {error}") from error
    if not text:
        raise InputDataError("the prompt on stdin is empty")
    return text


def read_requests(source: str) -> list[Request | BadLine]:
    """Read JSON lines from a file, or from stdin for ``-``.

    A line that cannot be read becomes a :class:`BadLine` and the rest goes on (faults 5, 7, 8).
    A line that repeats an earlier one word for word is dropped.

    Raises:
        InputDataError: The file cannot be read, or an id stands for two different requests
            (fault 9).
    """
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputDataError(f"{source}: cannot be read: {error.strerror}") from error
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if source == "-":
        return _parse_lines(raw.split(b"\n"), "stdin")
    return _parse_lines(raw.split(b"\n"), source, beside=Path(source).parent)


def _parse_lines(
    lines: Iterable[bytes], name: str, *, beside: Path | None = None
) -> list[Request | BadLine]:
    items: dict[str, Request | BadLine] = {}
    seen: dict[str, bytes] = {}
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line:
            continue
        item = _parse_line(line, number, f"{name}:{number}", beside)
        if item.id in seen:
            if seen[item.id] == line:
                continue
            raise InputDataError(
                f"{name}:{number}: id {item.id!r} stands for another request in an earlier line"
            )
        seen[item.id] = line
        items[item.id] = item
    return list(items.values())


def _parse_line(line: bytes, number: int, where: str, beside: Path | None) -> Request | BadLine:
    item_id = f"line-{number}"
    try:
        text = line.decode("utf-8")
        if "\0" in text or "\\u0000" in text:
            raise ValueError("it holds a NUL character")
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("it is no JSON object")
        if fields.get("id") is not None:
            item_id = str(fields["id"])
        return _request(item_id, fields, beside)
    except (ValueError, RecursionError, InputDataError) as error:
        return BadLine(id=item_id, error=InputDataError(f"{where}: {error}"))


def _request(item_id: str, fields: dict[str, Any], beside: Path | None) -> Request:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError('"prompt" must be a text that is not empty')
    require_whole_characters(prompt, '"prompt"')
    modality, seed, image = fields.get("modality"), fields.get("seed"), fields.get("image")
    if modality not in (None, "auto", "image", "video", "audio"):
        raise ValueError(f'"modality" must be auto, image, video or audio, got {modality!r}')
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
        raise ValueError(f'"seed" must be a whole number ≥ 0, got {seed!r}')
    if seed is not None and seed >= SEED_LIMIT:
        raise ValueError(f'"seed" must be a whole number below 2^63, got {seed}')
    if image is not None and not isinstance(image, str):
        raise ValueError(f'"image" must be a path, got {image!r}')
    reply = fields.get("reply")
    if reply is not None and not isinstance(reply, str):
        raise ValueError(f'"reply" must be a text, got {reply!r}')
    require_whole_characters(reply or "", '"reply"')
    return Request(
        id=item_id,
        prompt=prompt,
        history=_history(fields.get("history") or []),
        images=(_picture(image, beside),) if image else (),
        modality=None if modality == "auto" else modality,
        seed=seed,
        reply=reply,
        extra={key: value for key, value in fields.items() if key not in _KNOWN},
    )


def _picture(image: str, beside: Path | None) -> Path:
    """Return a picture's path as it stands, or in the folder ``beside`` if it is there alone."""
    path = Path(image)
    if beside is not None and not path.is_absolute() and not is_there(path):
        neighbour = beside / path
        return neighbour if is_there(neighbour) else path
    return path


def _history(value: Any) -> tuple[ChatTurn, ...]:
    expected = '"history" must be a list of {"from": "human" or "gpt", "value": text} in turn'
    if not isinstance(value, list):
        raise ValueError(expected)
    turns = []
    for index, turn in enumerate(value):
        speaker = "gpt" if index % 2 else "human"
        if not isinstance(turn, dict) or turn.get("from") != speaker:
            raise ValueError(expected)
        if not isinstance(turn.get("value"), str):
            raise ValueError(expected)
        said = require_whole_characters(turn["value"], '"history"')
        turns.append(ChatTurn(role=_ROLES[speaker], content=said))  # type: ignore[arg-type]
    if len(turns) % 2:
        raise ValueError('"history" must end with a gpt turn')
    return tuple(turns)
