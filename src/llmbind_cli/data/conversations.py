"""Reads conversation files in the LLaVA shape: LLaVA-Instruct, T2X, and interactive dialogues.

A record is ``{"id", "conversations": [{"from": "human" | "gpt", "value"}], "image"?, "masks"?}``;
a file is a JSON array of records, or one record a line. Task tokens in a ``gpt`` value are control
tokens and are checked; in a ``human`` value they are text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmbind_cli.data.dialogues.replies import call, without_task_tokens
from llmbind_cli.data.sample import IMAGE_PLACEHOLDER, Dialogue, Role, Turn
from llmbind_cli.data.spellings import ANY_SPELLING, canonical, parse_calls
from llmbind_cli.errors import InputDataError
from llmbind_cli.tokens import require_whole_characters

_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}

_MEDIA = ("image", "video", "audio")
"""T2X marks its output with one of these in angle brackets and keeps the caption beside it."""

_MARKER = re.compile(rf"<({'|'.join(_MEDIA)})>")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(kw_only=True)
class ReadCounts:
    """What a file held.

    Attributes:
        dialogues: Records read.
        turns: Human turns.
        calls: Task → calls; ``talk`` counts replies without one.
        cut: Replies that are marked as cut.
        user_tags: Task tokens in human turns, where they stay text.
        plain_markers: Output markers such as ``<video>`` in replies of records that name no
            output; they stay text as well.
    """

    dialogues: int = 0
    turns: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    user_tags: int = 0
    plain_markers: int = 0

    def as_fields(self) -> dict[str, Any]:
        """Return the counts for a manifest, calls most frequent first."""
        return {**vars(self), "calls": dict(self.calls.most_common())}

    def __str__(self) -> str:
        calls = ", ".join(f"{task} {count:,}" for task, count in self.calls.most_common())
        text = f"{self.dialogues:,} dialogues, {self.turns:,} turns; calls: {calls}"
        if self.cut:
            text += f"; {self.cut:,} cut replies"
        if self.user_tags:
            text += f"; {self.user_tags:,} task tags in human turns stay text"
        if self.plain_markers:
            text += f"; {self.plain_markers:,} output markers without an output stay text"
        return text


class ConversationReader(Iterator[Dialogue]):
    """The dialogues of a file, one after another.

    Attributes:
        counts: What was read so far.
    """

    def __init__(self, path: str | Path) -> None:
        self.counts = ReadCounts()
        self._file = Path(path)
        self._records = _records(self._file)

    def __next__(self) -> Dialogue:
        """Read the next record.

        Raises:
            InputDataError: The file or a record is broken; the message names the place.
        """
        try:
            where, index, record = next(self._records)
        except StopIteration:
            if self.counts.dialogues == 0:
                raise InputDataError(f"{self._file}: holds no conversation") from None
            raise
        dialogue = self._dialogue(record, index, where)
        self.counts.dialogues += 1
        self.counts.turns += len(dialogue.turns) // 2
        return dialogue

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
        if image is not None:
            _take_placeholder_out(spoken)
        turns = [
            self._turn(entry, record, number, f"{where}: turn {number}")
            for number, entry in enumerate(spoken)
        ]
        name = require_whole_characters(str(record.get("id", f"{self._file.stem}-{index}")), where)
        return Dialogue(id=name, turns=turns, image=image, masks=masks)

    def _turn(self, entry: Any, record: dict[str, Any], number: int, where: str) -> Turn:
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
            raise InputDataError(f"{where}: expected 'from' and a text 'value', got {entry!r:.60}")
        expected = "gpt" if number % 2 else "human"
        if entry.get("from") != expected:
            raise InputDataError(f"{where}: must be from {expected!r}, got {entry.get('from')!r}")
        complete = entry.get("complete", True)
        if not isinstance(complete, bool) or (expected == "human" and not complete):
            raise InputDataError(
                f"{where}: 'complete' says whether a gpt turn is whole: true or false, "
                f"got {complete!r:.40}"
            )
        text = require_whole_characters(entry["value"], where)
        if expected == "gpt":
            text = self._replied(text, record, where)
        else:
            self.counts.user_tags += len(ANY_SPELLING.findall(text))
        if not text.strip():
            raise InputDataError(f"{where}: the text is empty")
        self.counts.cut += not complete
        return Turn(_ROLES[expected], text.strip(), complete=complete)

    def _replied(self, text: str, record: dict[str, Any], where: str) -> str:
        """Return a gpt turn in canonical spelling, output markers replaced by calls.

        A marker counts where the record names such an output. Elsewhere it is text, as in a
        reply that explains HTML.
        """

        def captioned(match: re.Match[str]) -> str:
            medium = match[1]
            if f"output_{medium}" in record or f"{medium}_captions" in record:
                return _captioned(record, medium, where)
            self.counts.plain_markers += 1
            return match[0]

        text = _MARKER.sub(captioned, canonical(text))
        try:
            tasks = [task for _, task, _ in parse_calls(text) if task]
        except ValueError as error:
            raise InputDataError(f"{where}: {error}") from None
        self.counts.calls.update(tasks or ["talk"])
        return text


def read_conversations(path: str | Path) -> ConversationReader:
    """Open a conversation file; its records are read and checked one by one.

    Args:
        path: A JSON array, or JSONL.

    Returns:
        An iterator of :class:`Dialogue` that also counts what it reads. While it advances it raises
        :class:`InputDataError` at the first broken record, with file and line.
    """
    return ConversationReader(path)


def _records(file: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield place, number and content of each record."""
    try:
        with file.open("rb") as stream:
            head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if head == b"[":
            yield from _array_records(file, file.read_text(encoding="utf-8-sig"))
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
                except RecursionError:
                    raise InputDataError(f"{where}: brackets nest too deep") from None
    except UnicodeDecodeError as error:
        raise InputDataError(f"{file}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InputDataError(f"{file}: line {error.lineno}: no JSON: {error.msg}") from None
    except RecursionError:
        raise InputDataError(f"{file}: brackets nest too deep") from None
    except OSError as error:
        raise InputDataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _array_records(file: Path, text: str) -> Iterator[tuple[str, int, Any]]:
    """Decode one record of a JSON array after the other, so that each one's line is known."""
    decode = json.JSONDecoder().raw_decode
    place = text.index("[") + 1
    line, index = 1 + text.count("\n", 0, place), 0

    def next_mark(start: int) -> str:
        """Move past what was decoded and the space after it."""
        nonlocal place, line
        end = _SPACE.match(text, start).end()  # type: ignore[union-attr]
        line += text.count("\n", place, end)
        place = end
        return text[place : place + 1]

    more = next_mark(place) != "]"
    while more:
        record, end = decode(text, place)
        yield f"{file}: line {line}: record {index}", index, record
        index += 1
        mark = next_mark(end)
        if mark not in (",", "]"):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        more = mark == ","
        if more:
            next_mark(place + 1)
    if next_mark(place + 1):
        raise json.JSONDecodeError("Extra data", text, place)


def _take_placeholder_out(spoken: list[Any]) -> None:
    """Take out the one placeholder that stands for the record's picture; others are text."""
    for number, entry in enumerate(spoken[::2]):
        value = entry.get("value") if isinstance(entry, dict) else None
        if isinstance(value, str) and IMAGE_PLACEHOLDER in value:
            spoken[2 * number] = entry | {"value": value.replace(IMAGE_PLACEHOLDER, "", 1)}
            return


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
