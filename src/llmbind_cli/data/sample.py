"""One training dialogue, in the shape that every reader and builder gives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["user", "assistant"]

_SPEAKER: dict[str, str] = {"user": "human", "assistant": "gpt"}

IMAGE_PLACEHOLDER = "<image>"
"""Stands in the first turn of a LLaVA record for the picture attached to it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says.

    Attributes:
        role: ``user`` or ``assistant``.
        text: The words. Task tokens count as such in an assistant's text only; in a user's they
            are plain text.
        complete: False for a reply that was cut: training then leaves its end of turn out.
    """

    role: Role
    text: str
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation that a binding model learns from.

    Attributes:
        id: Name of the record.
        turns: User and assistant in alternation, the user first.
        image: Path of the picture attached to the first turn, as written in the file.
        masks: Ground-truth masks of a segmentation dialogue, as written in the file.
    """

    id: str
    turns: list[Turn]
    image: str | None = None
    masks: list[Any] | None = None

    def __post_init__(self) -> None:
        if not self.turns or len(self.turns) % 2:
            raise ValueError(
                f"dialogue {self.id!r}: needs pairs of a user and an assistant turn, "
                f"got {len(self.turns)} turns"
            )
        for index, turn in enumerate(self.turns):
            expected = "assistant" if index % 2 else "user"
            if turn.role != expected:
                raise ValueError(
                    f"dialogue {self.id!r}: turn {index} must be the {expected}'s, "
                    f"got {turn.role!r}"
                )

    def fingerprint(self) -> int:
        """Return 64 bits that follow from the turns' texts alone, the same in every process."""
        digest = hashlib.blake2b(digest_size=8)
        for turn in self.turns:
            text = turn.text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(text))
            digest.update(text)
        return int.from_bytes(digest.digest(), "big")

    def as_record(self) -> dict[str, Any]:
        """Return the dialogue in the LLaVA shape, ready for one JSON line.

        A reply that was cut carries ``"complete": false``, which other readers pass over.
        """
        spoken: list[dict[str, Any]] = [
            {"from": _SPEAKER[turn.role], "value": turn.text}
            | ({} if turn.complete else {"complete": False})
            for turn in self.turns
        ]
        record: dict[str, Any] = {"id": self.id, "conversations": spoken}
        if self.image is not None:
            spoken[0]["value"] = f"{IMAGE_PLACEHOLDER}\n{self.turns[0].text}"
            record["image"] = self.image
        if self.masks is not None:
            record["masks"] = self.masks
        return record
