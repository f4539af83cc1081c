"""Text to ids, span by span: what a user typed never becomes a control token."""

from __future__ import annotations

import functools
import re
from typing import Any
from weakref import WeakKeyDictionary

from llmbind_cli.errors import InputDataError
from llmbind_cli.tokens.table import TokenTable

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


def require_whole_characters(text: str, where: str) -> str:
    """Refuse what no tokenizer can read, though a Python text can hold it.

    JSON can spell half of a surrogate pair, and bytes of a command line that are no UTF-8 arrive as
    such halves too.

    Args:
        text: Any text.
        where: What messages call it.

    Returns:
        The text as it is.

    Raises:
        InputDataError: It holds half of a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputDataError(
            f"{where}: {text[error.start]!a} is half of a character; write it as a whole"
        ) from None
    return text


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
    opening = {token.open for token in table.tokens if token.close is not None}
    pieces = re.split(f"({'|'.join(re.escape(s) for s in table.ids)})", text)
    ids: list[int] = []
    for index, piece in enumerate(pieces):
        if piece in table.ids:
            ids.append(table.ids[piece])
            continue
        words = piece.rstrip() if index + 1 < len(pieces) else piece
        if index > 0 and words.strip():
            words = _after_token(tokenizer, words, closing=pieces[index - 1] not in opening)
        if words:
            ids.extend(encode_user_text(tokenizer, words))
    return ids


def _after_token(tokenizer: Any, piece: str, *, closing: bool) -> str:
    """Give a word after a task token the leading space under which the vocabulary knows it.

    What follows a closing or single token without a space, such as a full stop, goes without one.
    """
    text = piece.lstrip()
    if closing and text == piece:
        return text
    return f" {text}" if space_belongs_to_word(tokenizer) else text


@functools.lru_cache(maxsize=16)
def space_belongs_to_word(tokenizer: Any) -> bool:
    """Tell byte-level vocabularies (" cat" is one id) from those that add the space themselves."""
    spaced, plain = _encode(tokenizer, " cat"), _encode(tokenizer, "cat")
    return spaced != plain and len(spaced) <= len(plain)
