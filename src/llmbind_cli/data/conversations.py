"""Reads conversation files in the LLaVA shape: LLaVA-Instruct, T2X, and interactive dialogues.

A record is ``{"id", "conversations": [{"from": "human" | "gpt", "value"}], "image"?, "masks"?}``;
a file is a JSON array of records, or one record a line. Task tokens in a ``gpt`` value are control
tokens and are checked; in a ``human`` value they are text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmbind_cli.data.dialogues.replies import call, without_task_tokens
from llmbind_cli.data.sample import Dialogue, Role, Turn
from llmbind_cli.errors import InputDataError
from llmbind_cli.tokens import TASK_TOKENS

_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}

_MEDIA = ("image", "video", "audio")
"""T2X marks its output with one of these in angle brackets and keeps the caption beside it."""

_PAIRS = {token.task: (token.open, token.close) for token in TASK_TOKENS if token.close is not None}

# The paper's tables spell two pairs in another way than its text (LLMBind tables 1 and 2).
_ALIASES = {
    f"{bracket}{alias}>": _PAIRS[task][index]
    for alias, task in (("video_cap", "video"), ("audio_cap", "audio"))
    for index, bracket in enumerate(("<", "</"))
}
_ALIAS = re.compile("|".join(map(re.escape, _ALIASES)))
_MARKER = re.compile(rf"<({'|'.join(_MEDIA)})>")
_SPELLING = re.compile("|".join(re.escape(s) for token in TASK_TOKENS for s in token.spellings))
_CLOSES = dict(_PAIRS.values())


class ConversationReader(Iterator[Dialogue]):
    """The dialogues of a file, one after another.

    Attributes:
        user_tags: Task tokens seen so far in human turns, where they stay text.
    """

    def __init__(self, path: str | Path) -> None:
        self.user_tags = 0
        self._file = Path(path)
        self._records = _records(self._file)
        self._read = 0

    def __next__(self) -> Dialogue:
        """Read the next record.

        Raises:
            InputDataError: The file or a record is broken; the message names the place.
        """
        try:
            where, index, record = next(self._records)
        except StopIteration:
            if self._read == 0:
                raise InputDataError(f"{self._file}: holds no conversation") from None
            raise
        self._read += 1
        return self._dialogue(record, index, where)

    def _dialogue(self, record: Any, index: int, where: str) -> Dialogue:
        if not isinstance(record, dict):
            raise InputDataError(f"{where}: expected an object, got {record!r:.40}")
        spoken = record.get("conversations")
        if not isinstance(spoken, list) or not spoken or len(spoken) % 2:
            raise InputDataError(
                f"{where}: 'conversations' must be a list of human and gpt turns in pairs"
            )
        for medium in ("video", "audio"):
            if f"input_{medium}" in record:
                raise InputDataError(
                    f"{where}: has a {medium} as input, which no bundle can read; "
                    f"leave such records out"
                )
        image = record.get("image", record.get("input_image"))
        if image is not None and not isinstance(image, str):
            raise InputDataError(f"{where}: 'image' must be one path, got {image!r:.40}")
        masks = record.get("masks")
        if masks is not None and not isinstance(masks, list):
            raise InputDataError(f"{where}: 'masks' must be a list, got {masks!r:.40}")
        turns = [
            self._turn(entry, record, number, f"{where}: turn {number}")
            for number, entry in enumerate(spoken)
        ]
        name = str(record.get("id", f"{self._file.stem}-{index}"))
        return Dialogue(id=name, turns=turns, image=image, masks=masks)

    def _turn(self, entry: Any, record: dict[str, Any], number: int, where: str) -> Turn:
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
            raise InputDataError(f"{where}: expected 'from' and a text 'value', got {entry!r:.60}")
        expected = "gpt" if number % 2 else "human"
        if entry.get("from") != expected:
            raise InputDataError(f"{where}: must be from {expected!r}, got {entry.get('from')!r}")
        text = entry["value"]
        if expected == "human":
            if record.get("image") is not None or "input_image" in record:
                text = text.replace("<image>", "").strip()
            self.user_tags += len(_SPELLING.findall(text)) + len(_ALIAS.findall(text))
        else:
            text = _ALIAS.sub(lambda match: _ALIASES[match[0]], text)
            text = _MARKER.sub(lambda match: _captioned(record, match[1], where), text)
            _check_calls(text, where)
        if not text.strip():
            raise InputDataError(f"{where}: the text is empty")
        return Turn(_ROLES[expected], text.strip())


def read_conversations(path: str | Path) -> ConversationReader:
    """Open a conversation file; its records are read and checked one by one.

    Args:
        path: A JSON array, or JSONL.

    Returns:
        An iterator of :class:`Dialogue` that also counts task tokens in human turns. While it
        advances it raises :class:`InputDataError` at the first broken record, with file and line
        or record.
    """
    return ConversationReader(path)


def _records(file: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield place, number and content of each record."""
    try:
        with file.open("rb") as stream:
            head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if head == b"[":
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            for index, record in enumerate(content):
                yield f"{file}: record {index}", index, record
            return
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                where = f"{file}: line {number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    if text.strip():
                        yield where, number, json.loads(text)
                except UnicodeDecodeError:
                    raise InputDataError(f"{where}: not UTF-8") from None
                except json.JSONDecodeError as error:
                    raise InputDataError(f"{where}: no JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise InputDataError(f"{file}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InputDataError(f"{file}: line {error.lineno}: no JSON: {error.msg}") from None
    except OSError as error:
        raise InputDataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _captioned(record: dict[str, Any], medium: str, where: str) -> str:
    """Return the call that stands for a T2X output marker."""
    caption = record.get(f"{medium}_captions", record.get("caption"))
    folded = " ".join(without_task_tokens(caption).split()) if isinstance(caption, str) else ""
    if not folded:
        raise InputDataError(
            f"{where}: marks its output with <{medium}>, but the record has no "
            f"'{medium}_captions' to put there"
        )
    return call(medium, folded)


def _check_calls(text: str, where: str) -> None:
    """Refuse a reply whose task tokens do not form whole calls.

    Raises:
        InputDataError: A pair is not closed, not opened, nested, crossed or empty.
    """
    pending: re.Match[str] | None = None
    for match in _SPELLING.finditer(text):
        if pending is not None:
            if match[0] != _CLOSES[pending[0]]:
                raise InputDataError(f"{where}: {match[0]} inside {pending[0]}")
            if not text[pending.end() : match.start()].strip():
                raise InputDataError(f"{where}: nothing between {pending[0]} and {match[0]}")
            pending = None
        elif match[0] in _CLOSES:
            pending = match
        elif match[0].startswith("</"):
            raise InputDataError(f"{where}: {match[0]} closes nothing")
    if pending is not None:
        raise InputDataError(f"{where}: {pending[0]} is not closed by {_CLOSES[pending[0]]}")
