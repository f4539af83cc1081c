"""Conversations as token ids, the same way in training and in inference.

The tokenizer's own chat template lays out the turns. It is rendered once with placeholders for
the contents; each content is then encoded as a span of its own and the ids are joined. So text
from a user never meets the template's markers (see :mod:`llmbind_cli.tokens`), and what the model
reads in training is what it reads when it serves.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmbind_cli.errors import IntegrityError
from llmbind_cli.tokens import TokenTable, encode_reply_text, encode_user_text

VICUNA_TEMPLATE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %} USER: {{ message['content'] }}"
    "{% else %} ASSISTANT: {{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""The conversation format of Vicuna v1.1 (lm-sys/FastChat), whose tokenizer ships no template."""

IMAGE_MARKER = "[image attached]"
"""Stands before a turn for each picture attached to it, for an LLM without a vision tower."""

IMAGE_ID = -1
"""Stands for one position that a picture's embedding takes; no tokenizer gives a negative id."""

_PLACEHOLDER = "xQ{}Zx"
_PLACEHOLDERS = re.compile(r"xQ(\d+)Zx")


@dataclass(frozen=True, kw_only=True)
class ChatTurn:
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        content: Text, or for an assistant the ids it emitted (without the end of turn).
        num_images: Pictures attached to the turn.
    """

    role: Literal["user", "assistant"]
    content: str | Sequence[int]
    num_images: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageSlot:
    """What a picture takes up in a conversation.

    Attributes:
        num_tokens: Positions that its embeddings take, from the vision tower's configuration.
        before: Ids that stand before them.
        after: Ids that stand after them.
    """

    num_tokens: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncodedChat:
    """A conversation as ids.

    Attributes:
        ids: ``T`` token ids.
        reply_spans: ``(start, stop)`` of each assistant turn in ``ids``, its end of turn included.
    """

    ids: list[int]
    reply_spans: list[tuple[int, int]]


def encode_chat(
    tokenizer: Any,
    turns: Sequence[ChatTurn],
    table: TokenTable,
    *,
    add_generation_prompt: bool,
    slot: ImageSlot | None = None,
) -> EncodedChat:
    """Encode a conversation.

    A picture stands before the words of the turn that it is attached to. From the second one of a
    conversation on, and where a turn has several, each is numbered in words ("Image 2:"), so that
    people and model can tell them apart.

    Args:
        tokenizer: A tokenizer with a chat template.
        turns: The turns, oldest first.
        table: The task tokens that may become control tokens in assistant turns.
        add_generation_prompt: End with the template's opening of an assistant turn.
        slot: What each picture takes up; ``None`` for an LLM without a vision tower, which is told
            of pictures by :data:`IMAGE_MARKER` alone.

    Raises:
        IntegrityError: The tokenizer has no usable chat template.
    """
    roles = tuple(turn.role for turn in turns)
    frames = _frames(tokenizer, roles, add_generation_prompt)
    ids = list(frames[0])
    spans = []
    num_images = 0
    for turn, frame in zip(turns, frames[1:], strict=True):
        start = len(ids)
        if slot is not None and turn.role == "user" and turn.num_images:
            ids.extend(_encode_with_images(tokenizer, turn, slot, earlier=num_images))
            num_images += turn.num_images
        else:
            ids.extend(_encode_content(tokenizer, turn, table))
        if turn.role == "assistant":
            ending = _end_of_turn(tokenizer, frame)
            spans.append((start, len(ids) + ending))
        ids.extend(frame)
    return EncodedChat(ids=ids, reply_spans=spans)


@functools.lru_cache(maxsize=16)
def stop_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids that end an assistant turn under the tokenizer's chat template."""
    after = _frames(tokenizer, ("user", "assistant"), False)[-1]
    special = set(tokenizer.all_special_ids)
    ending = next((index for index in after if index in special), None)
    return frozenset(i for i in (ending, tokenizer.eos_token_id) if i is not None)


def _encode_content(tokenizer: Any, turn: ChatTurn, table: TokenTable) -> list[int]:
    if not isinstance(turn.content, str):
        return list(turn.content)
    if turn.role == "assistant":
        return encode_reply_text(tokenizer, turn.content, table)
    marker = f"{IMAGE_MARKER}\n" * turn.num_images
    return encode_user_text(tokenizer, marker + turn.content)


def _encode_with_images(
    tokenizer: Any, turn: ChatTurn, slot: ImageSlot, *, earlier: int
) -> list[int]:
    """Encode a user's turn with its pictures before its words.

    Args:
        tokenizer: As for :func:`encode_chat`.
        turn: Has at least one picture; its content is text.
        slot: What each picture takes up.
        earlier: Pictures of the turns before.
    """
    ids: list[int] = []
    is_numbered = turn.num_images > 1 or earlier > 0
    for index in range(turn.num_images):
        words = "\n" if index else ""
        if is_numbered:
            words += f"Image {earlier + index + 1}: "
        if words:
            ids += encode_user_text(tokenizer, words)
        ids += [*slot.before, *[IMAGE_ID] * slot.num_tokens, *slot.after]
    return ids + encode_user_text(tokenizer, f"\n{turn.content}")


def _end_of_turn(tokenizer: Any, frame: tuple[int, ...]) -> int:
    """Return how many ids of the frame after a reply belong to the reply's end."""
    stops = stop_ids(tokenizer)
    return next((count for count, index in enumerate(frame, 1) if index in stops), 0)


@functools.lru_cache(maxsize=1024)
def _frames(
    tokenizer: Any, roles: tuple[str, ...], add_generation_prompt: bool
) -> tuple[tuple[int, ...], ...]:
    """Return the template's own ids before, between and after the contents of the turns."""
    messages = [
        {"role": role, "content": _PLACEHOLDER.format(index)} for index, role in enumerate(roles)
    ]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # a template is a program of its own and may raise anything
        raise IntegrityError(f"the tokenizer's chat template fails: {error}") from error
    pieces = _PLACEHOLDERS.split(text)
    if pieces[1::2] != [str(index) for index in range(len(roles))]:
        raise IntegrityError("the tokenizer's chat template drops or reorders turns")
    return tuple(
        tuple(tokenizer.encode(piece, add_special_tokens=False)) if piece else ()
        for piece in pieces[0::2]
    )
