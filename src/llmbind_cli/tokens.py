"""The task-token table, the encoding of user and assistant text, and the reply parser.

A binding model answers in text in which *task tokens* name what else is to be done
(LLMBind, arXiv 2402.14891, section 3.2). A pair such as ``<gen>…</gen>`` encloses the prompt for
a frozen generator; a single token such as ``<seg>`` hands its hidden state to a decoder.
UnifiedMLLM (arXiv 2408.02503) adds pairs whose content is a region.

Everything here works on token *ids*. Task tokens are registered as special tokens, and each span
that a user supplied is encoded on its own without them, so nothing a user types becomes a control
token. This is the only module that spells a task token.
"""

from __future__ import annotations

import enum
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from llmbind_cli.errors import IntegrityError, PartialFailure


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
        task="image", open="<gen>", close="</gen>", payload=Payload.TEXT,
        init_words=(" image", " picture", " drawing", " photo", " illustration"),
    ),
    TaskToken(
        task="edit", open="<edit>", close="</edit>", payload=Payload.TEXT,
        init_words=(" edit", " change", " modify", " replace", " adjust"),
    ),
    TaskToken(
        task="video", open="<vid_cap>", close="</vid_cap>", payload=Payload.TEXT,
        init_words=(" video", " film", " clip", " footage", " movie"),
    ),
    TaskToken(
        task="audio", open="<aud_cap>", close="</aud_cap>", payload=Payload.TEXT,
        init_words=(" audio", " sound", " music", " noise", " recording"),
    ),
    TaskToken(
        task="segment", open="<seg>", close=None, payload=Payload.HIDDEN_STATE,
        init_words=(" mask", " segment", " region", " outline"),
    ),
    TaskToken(
        task="detect", open="<detect>", close=None, payload=Payload.HIDDEN_STATE,
        init_words=(" box", " detect", " locate", " find"),
    ),
    TaskToken(
        task="classify", open="<cls>", close=None, payload=Payload.HIDDEN_STATE,
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


@dataclass(frozen=True, kw_only=True)
class TaskCall:
    """One call that a reply makes.

    Attributes:
        task: Task name from the table.
        prompt: The text payload, stripped; empty for a single token.
        position: Index of the opening or single token in the reply's ids.
        region: ``(x1, y1, x2, y2)`` in [0, 1] for a region payload, else ``None``.
    """

    task: str
    prompt: str
    position: int
    region: tuple[float, float, float, float] | None = None


class ReplyError(PartialFailure):
    """A reply whose task tokens do not form whole calls.

    Attributes:
        kind: ``truncated``, ``nested``, ``crossed``, ``unopened``, ``empty`` or ``region``.
        reply: The raw reply as text, task tokens spelled out.
    """

    def __init__(self, message: str, *, kind: str, reply: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.reply = reply


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

    def __iter__(self) -> Any:
        return iter(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)


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


_control: WeakKeyDictionary[Any, tuple[int, dict[int, str]]] = WeakKeyDictionary()


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Return id → spelling of every id that user text must never become.

    These are all added tokens, special or not (chat-template markers of some models are added as
    plain tokens), except runs of white space, which some vocabularies add for compression.
    """
    size = len(tokenizer)
    known = _control.get(tokenizer)
    if known is None or known[0] != size:
        found = {
            int(index): entry.content
            for index, entry in tokenizer.added_tokens_decoder.items()
            if entry.special or entry.content.strip()
        }
        known = (size, found)
        _control[tokenizer] = known
    return known[1]


def encode_user_text(tokenizer: Any, text: str) -> list[int]:
    """Encode a span that a user supplied; none of its ids is a control token.

    Args:
        tokenizer: A transformers tokenizer.
        text: Any text, also one that spells task tokens or chat-template markers.

    Returns:
        The ids of the span alone, to be concatenated with those of other spans.
    """
    control = control_tokens(tokenizer)
    ids = _encode(tokenizer, text)
    if control.keys().isdisjoint(ids):
        return ids
    # Splitting covers special tokens only; a marker added as a plain token still matches.
    # Cutting each such spelling after its first character leaves nothing to match.
    markers = "|".join(re.escape(s) for s in sorted(control.values(), key=len, reverse=True))
    cut = re.sub(f"(?i:{markers})", lambda match: f"{match[0][0]}\0{match[0][1:]}", text)
    ids = [i for piece in cut.split("\0") if piece for i in _encode(tokenizer, piece)]
    if control.keys().isdisjoint(ids):
        return ids
    return [i for character in text for i in _encode(tokenizer, character) if i not in control]


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return [int(i) for i in ids]


def encode_reply_text(tokenizer: Any, text: str, table: TokenTable) -> list[int]:
    """Encode what an assistant says: task-token spellings become ids, all else is plain text.

    White space beside a task token is normalised, so that ``draw: <gen> a cat </gen>`` and
    ``draw:<gen>a cat</gen>`` give the same ids.

    Args:
        tokenizer: A transformers tokenizer with the table's tokens registered.
        text: Assistant text in canonical spelling; aliases are the data readers' business.
        table: The bound table whose tokens count as control tokens.
    """
    if not table.ids:
        return encode_user_text(tokenizer, text)
    pieces = re.split(f"({'|'.join(re.escape(s) for s in table.ids)})", text)
    ids: list[int] = []
    for index, piece in enumerate(pieces):
        if piece in table.ids:
            ids.append(table.ids[piece])
            continue
        piece = piece.rstrip() if index + 1 < len(pieces) else piece
        if index > 0 and piece.strip():
            piece = _after_token(tokenizer, piece, closing=pieces[index - 1].startswith("</"))
        if piece:
            ids.extend(encode_user_text(tokenizer, piece))
    return ids


def _after_token(tokenizer: Any, piece: str, *, closing: bool) -> str:
    """Give a word after a task token the leading space under which the vocabulary knows it."""
    text = piece.lstrip()
    if closing and text == piece:
        return text
    return f" {text}" if _space_belongs_to_word(tokenizer) else text


@functools.lru_cache(maxsize=16)
def _space_belongs_to_word(tokenizer: Any) -> bool:
    """Tell byte-level vocabularies (" cat" is one id) from those that add the space themselves."""
    spaced, plain = _encode(tokenizer, " cat"), _encode(tokenizer, "cat")
    return spaced != plain and len(spaced) <= len(plain)


def reply_text(ids: Sequence[int], tokenizer: Any, table: TokenTable | None = None) -> str:
    """Decode a reply with its task tokens spelled out and set off by spaces.

    Special tokens other than task tokens (the end of the turn) are left out.
    """
    table = table or TokenTable.of(tokenizer)
    spelling = {index: text for text, index in table.ids.items()}
    special = set(tokenizer.all_special_ids) - spelling.keys()
    text = ""
    for is_token, group in itertools.groupby((int(i) for i in ids), key=spelling.__contains__):
        if is_token:
            for index in group:
                text = _append_token(text, spelling[index])
            continue
        span = [index for index in group if index not in special]
        words = tokenizer.decode(span, clean_up_tokenization_spaces=False) if span else ""
        after_opener = text.endswith(tuple(t.open for t in table.openers.values() if t.close))
        if after_opener or not text:
            words = words.lstrip()
        elif words[:1].isalnum() and not _space_belongs_to_word(tokenizer):
            words = f" {words}"  # such a decoder drops the space at the start of a span
        text += words
    return text.strip()


def _append_token(text: str, spelling: str) -> str:
    closing = spelling.startswith("</")
    text = text.rstrip()
    return text + spelling if closing or not text else f"{text} {spelling}"


def parse_reply(
    ids: Sequence[int], tokenizer: Any, table: TokenTable | None = None
) -> list[TaskCall]:
    """Return every task call of a reply, in order.

    Args:
        ids: The reply's ids, with or without the end-of-turn token.
        tokenizer: The tokenizer that the ids belong to.
        table: The tokens to look for; by default all of :data:`TASK_TOKENS` that the tokenizer
            has.

    Returns:
        The calls; an empty list for plain talk.

    Raises:
        ReplyError: A pair is truncated, nested, crossed, closed without being opened, or empty,
            or a region is not four ordered numbers in [0, 1]. The error keeps the raw reply.
    """
    table = table or TokenTable.of(tokenizer)
    calls: list[TaskCall] = []
    pending: TaskToken | None = None
    start = 0

    def fail(kind: str, message: str) -> ReplyError:
        return ReplyError(message, kind=kind, reply=reply_text(ids, tokenizer, table))

    for position, index in enumerate(int(i) for i in ids):
        opened, closed = table.openers.get(index), table.closers.get(index)
        if opened is not None:
            if pending is not None:
                raise fail("nested", f"{opened.open} inside {pending.open} at token {position}")
            if opened.close is None:
                calls.append(TaskCall(task=opened.task, prompt="", position=position))
            else:
                pending, start = opened, position
        elif closed is not None:
            if pending is None:
                raise fail("unopened", f"{closed.close} without {closed.open} at token {position}")
            if closed is not pending:
                raise fail("crossed", f"{pending.open} closed by {closed.close}")
            prompt = reply_text(ids[start + 1 : position], tokenizer, table)
            if not prompt:
                raise fail("empty", f"nothing between {pending.open} and {pending.close}")
            region = None
            if pending.payload is Payload.REGION:
                region = _parse_region(prompt)
                if region is None:
                    raise fail("region", f"{prompt!r} is no [x1, y1, x2, y2] in [0, 1]")
            calls.append(
                TaskCall(task=pending.task, prompt=prompt, position=start, region=region)
            )
            pending = None
    if pending is not None:
        raise fail("truncated", f"the reply ends before {pending.close}")
    return calls


_NUMBER = r"\s*([01](?:\.\d*)?|\.\d+)\s*"
_REGION = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def _parse_region(text: str) -> tuple[float, float, float, float] | None:
    match = _REGION.fullmatch(text)
    if match is None:
        return None
    x1, y1, x2, y2 = (float(value) for value in match.groups())
    in_order = 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    return (x1, y1, x2, y2) if in_order else None
