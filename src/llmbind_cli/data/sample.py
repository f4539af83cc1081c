"""One training dialogue, in the shape that every reader and builder gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["user", "assistant"]

_SPEAKER: dict[str, str] = {"user": "human", "assistant": "gpt"}


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

    def as_record(self) -> dict[str, Any]:
        """Return the dialogue in the LLaVA shape, ready for one JSON line."""
        record: dict[str, Any] = {
            "id": self.id,
            "conversations": [
                {"from": _SPEAKER[turn.role], "value": turn.text} for turn in self.turns
            ],
        }
        if self.image is not None:
            record["image"] = self.image
        if self.masks is not None:
            record["masks"] = self.masks
        return record
