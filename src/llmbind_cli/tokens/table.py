"""The task-token table, and its binding to the ids of a tokenizer.

This is the only module that spells a task token.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmbind_cli.errors import IntegrityError


class Payload(enum.StrEnum):
    """What a task token hands to the model behind it."""

    TEXT = "text"
    """The text between the pair is the prompt."""
    REGION = "region"
    """The text between the pair is ``[x1, y1, x2, y2]``, each in [0, 1] of width and height."""
    HIDDEN_STATE = "hidden_state"
    """A single token; the hidden state at the step that emitted it is the prompt embedding."""


@dataclass(frozen=True, kw_only=True)
class TaskToken:
    """One row of the token table.

    Attributes:
        task: The task's name as it stands in results: ``image``, ``edit``, ``segment``, …
        open: Spelling of the opening token, or of the single token.
        close: Spelling of the closing token; ``None`` for a single token.
        payload: What the token carries.
        init_words: Words whose mean embedding initialises the row of ``open``.
    """

    task: str
    open: str
    close: str | None
    payload: Payload
    init_words: tuple[str, ...]

    def __post_init__(self) -> None:
        if (self.close is None) != (self.payload is Payload.HIDDEN_STATE):
            raise ValueError(
                f"{self.open}: a hidden-state token is single and every other one a pair, "
                f"got close={self.close!r} with payload {self.payload.value!r}"
            )

    @property
    def spellings(self) -> tuple[str, ...]:
        """The spelling or spellings that must each be one id of the tokenizer."""
        return (self.open,) if self.close is None else (self.open, self.close)


TASK_TOKENS: tuple[TaskToken, ...] = (
    TaskToken(
        task="image",
        open="<gen>",
        close="</gen>",
        payload=Payload.TEXT,
        init_words=(" image", " picture", " drawing", " photo", " illustration"),
    ),
    TaskToken(
        task="edit",
        open="<edit>",
        close="</edit>",
        payload=Payload.TEXT,
        init_words=(" edit", " change", " modify", " replace", " adjust"),
    ),
    TaskToken(
        task="video",
        open="<vid_cap>",
        close="</vid_cap>",
        payload=Payload.TEXT,
        init_words=(" video", " film", " clip", " footage", " movie"),
    ),
    TaskToken(
        task="audio",
        open="<aud_cap>",
        close="</aud_cap>",
        payload=Payload.TEXT,
        init_words=(" audio", " sound", " music", " noise", " recording"),
    ),
    TaskToken(
        task="segment",
        open="<seg>",
        close=None,
        payload=Payload.HIDDEN_STATE,
        init_words=(" mask", " segment", " region", " outline"),
    ),
    TaskToken(
        task="detect",
        open="<detect>",
        close=None,
        payload=Payload.HIDDEN_STATE,
        init_words=(" box", " detect", " locate", " find"),
    ),
    TaskToken(
        task="classify",
        open="<cls>",
        close=None,
        payload=Payload.HIDDEN_STATE,
        init_words=(" class", " category", " label", " kind"),
    ),
)
"""Every task token llmbind knows; a bundle serves those that its own table names."""

CLOSING_INIT_WORDS = (".", " end", " done", " stop")
"""Words whose mean embedding initialises the row of a closing token."""


def tasks_named(names: Iterable[str]) -> tuple[TaskToken, ...]:
    """Return the rows of :data:`TASK_TOKENS` with the given task names, in the table's order.

    Raises:
        ValueError: A name is not in the table.
    """
    wanted = set(names)
    unknown = sorted(wanted - {token.task for token in TASK_TOKENS})
    if unknown:
        known = ", ".join(token.task for token in TASK_TOKENS)
        raise ValueError(f"unknown task {', '.join(unknown)}; known: {known}")
    return tuple(token for token in TASK_TOKENS if token.task in wanted)


@dataclass(frozen=True)
class TokenTable:
    """A token table bound to the ids of one tokenizer.

    Attributes:
        tokens: The rows that the bundle serves.
        ids: Spelling → id, for every spelling of ``tokens``.
    """

    tokens: tuple[TaskToken, ...]
    ids: dict[str, int]
    openers: dict[int, TaskToken] = field(init=False, repr=False)
    closers: dict[int, TaskToken] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "openers", {self.ids[t.open]: t for t in self.tokens})
        closers = {self.ids[t.close]: t for t in self.tokens if t.close is not None}
        object.__setattr__(self, "closers", closers)

    @classmethod
    def bind(cls, tokenizer: Any, tokens: Sequence[TaskToken]) -> TokenTable:
        """Look up the id of every spelling.

        Raises:
            IntegrityError: A spelling is missing from the tokenizer, is more than one id, or is
                not registered as a special token (fault 31).
        """
        added = tokenizer.added_tokens_decoder
        ids: dict[str, int] = {}
        wrong = []
        for spelling in (s for token in tokens for s in token.spellings):
            encoded = tokenizer.encode(spelling, add_special_tokens=False)
            entry = added.get(encoded[0]) if len(encoded) == 1 else None
            if entry is None or entry.content != spelling or not entry.special:
                wrong.append(f"{spelling} ({len(encoded)} ids)")
            else:
                ids[spelling] = encoded[0]
        if wrong:
            raise IntegrityError(
                f"the tokenizer lacks these task tokens as single special tokens: "
                f"{', '.join(wrong)}; the bundle's tokenizer files do not fit its token table"
            )
        return cls(tokens=tuple(tokens), ids=ids)

    @classmethod
    def of(cls, tokenizer: Any) -> TokenTable:
        """Bind every row of :data:`TASK_TOKENS` that the tokenizer has registered."""
        added = {entry.content for entry in tokenizer.added_tokens_decoder.values()}
        return cls.bind(tokenizer, [t for t in TASK_TOKENS if added.issuperset(t.spellings)])


def register_task_tokens(tokenizer: Any, tokens: Sequence[TaskToken]) -> TokenTable:
    """Add the task tokens to a tokenizer as special tokens and bind the table.

    Only ``special=True`` keeps a token out of text encoded with ``split_special_tokens=True``.
    ``normalized=False`` keeps look-alikes that a normaliser folds together from matching.
    """
    from tokenizers import AddedToken

    added = [
        AddedToken(spelling, special=True, normalized=False, lstrip=False, rstrip=False)
        for token in tokens
        for spelling in token.spellings
    ]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": added}, replace_extra_special_tokens=False
    )
    return TokenTable.bind(tokenizer, tokens)
