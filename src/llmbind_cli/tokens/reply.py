"""Replies: ids to text, and ids to task calls."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmbind_cli.errors import PartialFailure
from llmbind_cli.tokens.encoding import space_belongs_to_word
from llmbind_cli.tokens.table import Payload, TaskToken, TokenTable


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
        elif words[:1].isalnum() and not space_belongs_to_word(tokenizer):
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
    try:
        return list(_calls([int(i) for i in ids], tokenizer, table))
    except _Malformed as error:
        kind, message = error.args
        reply = reply_text(ids, tokenizer, table)
        raise ReplyError(message, kind=kind, reply=reply) from None


_TRIMMED = " \t\n.,;:!?-–—()[]\"'"
_JOINING = frozenset({"and", "then", "also", "or", "plus"})


def phrase_before(
    ids: Sequence[int], position: int, tokenizer: Any, table: TokenTable | None = None
) -> str:
    """Return the words that a single token is tied to: those since the task token before it.

    Args:
        ids: The reply's ids.
        position: Of the token in them.
        tokenizer: The tokenizer that the ids belong to.
        table: The tokens that end a phrase; by default as for :func:`parse_reply`.

    Returns:
        The words without punctuation and joining words at either end; empty where none stand there.
    """
    table = table or TokenTable.of(tokenizer)
    known = set(table.ids.values())
    start = position
    while start > 0 and int(ids[start - 1]) not in known:
        start -= 1
    words = reply_text(ids[start:position], tokenizer, table).strip(_TRIMMED).split()
    while words and words[0].lower().strip(_TRIMMED) in _JOINING:
        words.pop(0)
    return " ".join(words).strip(_TRIMMED)


class _Malformed(Exception):
    """Kind and message of a :class:`ReplyError` to be."""


def _calls(ids: list[int], tokenizer: Any, table: TokenTable) -> Iterator[TaskCall]:
    pending: TaskToken | None = None
    start = 0
    for position, index in enumerate(ids):
        opened, closed = table.openers.get(index), table.closers.get(index)
        if opened is not None and pending is not None:
            raise _Malformed("nested", f"{opened.open} inside {pending.open}, token {position}")
        if opened is not None and opened.close is None:
            yield TaskCall(task=opened.task, prompt="", position=position)
        elif opened is not None:
            pending, start = opened, position
        elif closed is not None:
            if pending is None:
                raise _Malformed("unopened", f"{closed.close} without {closed.open}")
            if closed is not pending:
                raise _Malformed("crossed", f"{pending.open} closed by {closed.close}")
            prompt = reply_text(ids[start + 1 : position], tokenizer, table)
            yield _call(pending, prompt, start)
            pending = None
    if pending is not None:
        raise _Malformed("truncated", f"the reply ends before {pending.close}")


def _call(token: TaskToken, prompt: str, position: int) -> TaskCall:
    if not prompt:
        raise _Malformed("empty", f"nothing between {token.open} and {token.close}")
    if token.payload is not Payload.REGION:
        return TaskCall(task=token.task, prompt=prompt, position=position)
    region = _parse_region(prompt)
    if region is None:
        raise _Malformed("region", f"{prompt!r} is no [x1, y1, x2, y2] in [0, 1]")
    return TaskCall(task=token.task, prompt=prompt, position=position, region=region)


_NUMBER = r"\s*([01](?:\.\d*)?|\.\d+)\s*"
_REGION = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def _parse_region(text: str) -> tuple[float, float, float, float] | None:
    match = _REGION.fullmatch(text)
    if match is None:
        return None
    x1, y1, x2, y2 = (float(value) for value in match.groups())
    in_order = 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    return (x1, y1, x2, y2) if in_order else None
