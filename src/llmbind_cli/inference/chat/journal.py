"""The session file: what happened in a conversation, one JSON object a line.

The first line names the format. Each later line is one event: a picture was attached or chosen,
the conversation was reset, or a turn came to its end, with the decisions that the model took and
the files that were made. A line is flushed to the disk before the conversation goes on; what a
killed run left of an unfinished last line is dropped. Words are kept as words, never as token
ids: when they are read again they are encoded as any other user's or assistant's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError
from llmbind_cli.inference.json_lines import append_lines, read_lines, to_json
from llmbind_cli.weights.lock import exclusive_lock

FORMAT = 1
_HEADER = "llmbind_session"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the conversation.

    Attributes:
        number: Its number in the conversation.
        path: Where it lies.
        sha256: 64 hexadecimal digits.
        media_type: For example ``image/png``.
    """

    number: int
    path: Path
    sha256: str
    media_type: str


@dataclass(frozen=True, kw_only=True)
class AttachEvent:
    """The user attached a picture."""

    file: FileRecord


@dataclass(frozen=True, kw_only=True)
class UseEvent:
    """The user chose a picture."""

    number: int


@dataclass(frozen=True, kw_only=True)
class ResetEvent:
    """The user began anew: turns and files are forgotten, and numbers start at 1 again."""


@dataclass(frozen=True, kw_only=True)
class CallRecord:
    """One task call of a reply, and what became of it.

    Attributes:
        task: Task name of the token table.
        prompt: What its generator was given.
        seed: Its own seed.
        source: Number of the picture that it started from.
        file: What it made; ``None`` where it failed.
        error: Exit code and message of the failure.
    """

    task: str
    prompt: str
    seed: int
    source: int | None = None
    file: FileRecord | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TurnEvent:
    """A message, the reply to it, and what followed.

    Attributes:
        turn: From 1; counts on over a reset.
        user: The user's words.
        images: Numbers of the pictures attached to the message.
        reply: The whole reply, task tokens spelled out.
        model: What answered.
        calls: The reply's task calls, in order.
    """

    turn: int
    user: str
    images: tuple[int, ...]
    reply: str
    model: str
    calls: tuple[CallRecord, ...] = ()


Event = AttachEvent | UseEvent | ResetEvent | TurnEvent


class Journal:
    """An open session file; :func:`open_journal` makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        header = to_json({_HEADER: FORMAT})
        # A new file, or one whose very first write was cut off.
        if not path.exists() or header.encode().startswith(path.read_bytes()):
            append_lines(path, [header])
        self.events = read_journal(path)

    def append(self, event: Event) -> None:
        """Add an event and flush it to the disk.

        Raises:
            OutputError: The file cannot be written.
            StorageError: The disk is full or failing; the file is as it was.
        """
        append_lines(self.path, [to_json(_to_json(event, self.path.absolute().parent))])


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open a session file, new or old, and keep it for this process.

    Args:
        path: The file; created where it is missing. Its folder must exist.

    Raises:
        LockHeldError: Another process has it open.
        OutputError: It cannot be created or written.
        InputDataError: It is no session file, or a line of it is damaged.
    """
    # Not the file itself: every write to that is under a lock of its own.
    with exclusive_lock(path.with_name(f".{path.name}.lock")):
        yield Journal(path)


def read_journal(path: Path) -> list[Event]:
    """Read the events of a session file; an unfinished last line is left out.

    Raises:
        InputDataError: It cannot be read, is no session file, or a line of it is damaged.
    """
    events: list[Event] = []
    number = 0
    for number, (_, fields) in enumerate(read_lines(path), 1):
        try:
            if number == 1:
                _check_header(fields)
            else:
                events.append(_from_json(fields, path.parent))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputDataError(f"{path}:{number}: no line of a session file: {why}") from error
    if number == 0:
        raise InputDataError(f"{path}: is no session file")
    return events


def _check_header(fields: Any) -> None:
    found = fields.get(_HEADER)
    if found != FORMAT:
        raise ValueError(f"{_HEADER!r} must be {FORMAT}, got {found!r}")


def _to_json(event: Event, folder: Path) -> dict[str, Any]:
    if isinstance(event, AttachEvent):
        return {"event": "attach", "file": _file_to_json(event.file, folder)}
    if isinstance(event, UseEvent):
        return {"event": "use", "number": event.number}
    if isinstance(event, ResetEvent):
        return {"event": "reset"}
    calls = [
        {**asdict(call), "file": call.file and _file_to_json(call.file, folder)}
        for call in event.calls
    ]
    return {"event": "turn", **asdict(event), "calls": calls}


def _from_json(fields: Mapping[str, Any], folder: Path) -> Event:
    kind = fields["event"]
    if kind == "attach":
        return AttachEvent(file=_file_from_json(fields["file"], folder))
    if kind == "use":
        return UseEvent(number=_whole(fields, "number"))
    if kind == "reset":
        return ResetEvent()
    if kind != "turn":
        raise ValueError(f"unknown event {kind!r}")
    return TurnEvent(
        turn=_whole(fields, "turn"),
        user=_text(fields, "user"),
        images=tuple(int(number) for number in fields["images"]),
        reply=_text(fields, "reply"),
        model=_text(fields, "model"),
        calls=tuple(_call_from_json(call, folder) for call in fields["calls"]),
    )


def _call_from_json(fields: Mapping[str, Any], folder: Path) -> CallRecord:
    file = fields["file"]
    return CallRecord(
        task=_text(fields, "task"),
        prompt=_text(fields, "prompt"),
        seed=_whole(fields, "seed"),
        source=None if fields["source"] is None else _whole(fields, "source"),
        file=None if file is None else _file_from_json(file, folder),
        error=fields["error"],
    )


def _file_to_json(file: FileRecord, folder: Path) -> dict[str, Any]:
    """Write a path from the session file's own folder where it can, so that both can move."""
    path = file.path.absolute()
    if path.is_relative_to(folder):
        path = path.relative_to(folder)
    return {**asdict(file), "path": str(path)}


def _file_from_json(fields: Mapping[str, Any], folder: Path) -> FileRecord:
    return FileRecord(
        number=_whole(fields, "number"),
        path=folder / _text(fields, "path"),
        sha256=_text(fields, "sha256"),
        media_type=_text(fields, "media_type"),
    )


def _whole(fields: Mapping[str, Any], key: str) -> int:
    value = fields[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f'"{key}" must be a whole number ≥ 0, got {value!r}')
    return value


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise ValueError(f'"{key}" must be a text, got {value!r}')
    return value
