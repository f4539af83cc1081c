"""The files of a conversation, attached and made, each with a number; and the picture in hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llmbind_cli.errors import UsageError
from llmbind_cli.inference.chat.picture_references import PictureReference, picture_references
from llmbind_cli.inference.dispatch import SIGHT_TASKS

ATTACHED = "attached"
"""Task name of a file that the user brought."""


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One file of the conversation.

    Attributes:
        number: From 1, in the order in which the files joined the conversation.
        turn: The turn that made it, or that it was attached to.
        task: The task that made it, or :data:`ATTACHED`.
        prompt: What its generator was given; empty for an attached file.
        path: Where it lies.
        sha256: 64 hexadecimal digits.
        media_type: For example ``image/png``.
        seed: Its seed; ``None`` for an attached file.
        source: Number of the picture it was edited from.
    """

    number: int
    turn: int
    task: str
    prompt: str
    path: Path
    sha256: str
    media_type: str
    seed: int | None = None
    source: int | None = None

    @property
    def is_picture(self) -> bool:
        """Whether an edit can start from it; a clip stored as GIF is no picture, nor is a mask."""
        return self.media_type.startswith("image/") and self.task not in ("video", *SIGHT_TASKS)


class History:
    """The files of one conversation, oldest first.

    An edit acts on the picture in hand: the one attached or made last, or the one chosen since.
    """

    def __init__(self) -> None:
        self._entries: list[HistoryEntry] = []
        self._in_hand: int | None = None

    @property
    def entries(self) -> tuple[HistoryEntry, ...]:
        """All files."""
        return tuple(self._entries)

    @property
    def pictures(self) -> tuple[HistoryEntry, ...]:
        """The files that an edit can start from."""
        return tuple(entry for entry in self._entries if entry.is_picture)

    @property
    def in_hand(self) -> HistoryEntry | None:
        """The picture that the next edit acts on, unless the message names another."""
        return None if self._in_hand is None else self.find(self._in_hand)

    @property
    def next_number(self) -> int:
        """The number that the next file gets."""
        return len(self._entries) + 1

    def add(self, entry: HistoryEntry) -> None:
        """Take in a file; a picture becomes the one in hand.

        Raises:
            ValueError: Its number is not the next one.
        """
        if entry.number != self.next_number:
            raise ValueError(f"number must be {self.next_number}, got {entry.number}")
        self._entries.append(entry)
        if entry.is_picture:
            self._in_hand = entry.number

    def find(self, number: int) -> HistoryEntry:
        """Return the file of a number.

        Raises:
            UsageError: The conversation has none.
        """
        if 1 <= number <= len(self._entries):
            return self._entries[number - 1]
        count = len(self._entries)
        held = "no file yet" if not count else f"only #1 to #{count}" if count > 1 else "only #1"
        raise UsageError(f"there is no #{number}: the conversation has {held}")

    def use(self, number: int) -> HistoryEntry:
        """Make a picture the one in hand.

        Raises:
            UsageError: There is no such file, or it is no picture.
        """
        entry = self.find(number)
        if not entry.is_picture:
            raise UsageError(f"#{number} is no picture but {entry.media_type} ({entry.path.name})")
        self._in_hand = number
        return entry

    def clear(self) -> None:
        """Forget all files."""
        self._entries.clear()
        self._in_hand = None

    def named(self, text: str) -> list[HistoryEntry]:
        """Return the pictures that a message names, in the order of the message.

        Raises:
            UsageError: It names one for certain that the conversation does not have.
        """
        found = (self._resolve(reference) for reference in picture_references(text))
        return _without_repeats(entry for entry in found if entry is not None)

    def _resolve(self, reference: PictureReference) -> HistoryEntry | None:
        if not self.pictures:
            return None  # then the edit itself says that there is no picture
        if reference.number is not None:
            if reference.number <= len(self._entries) or reference.certain:
                entry = self.find(reference.number)
                if entry.is_picture:
                    return entry
                raise UsageError(f"{reference.words!r} is no picture but {entry.media_type}")
            return None
        place = reference.ordinal or 0
        if place <= len(self.pictures):
            return self.pictures[place - 1 if place > 0 else place]
        if reference.certain:
            count = len(self.pictures)
            held = "one picture" if count == 1 else f"{count} pictures"
            raise UsageError(f"{reference.words!r}: the conversation has only {held}; see /list")
        return None


def _without_repeats(entries: Iterable[HistoryEntry]) -> list[HistoryEntry]:
    return list({entry.number: entry for entry in entries}.values())
