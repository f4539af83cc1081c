"""How a line is typed: capitals, points, slips of the keyboard, and task tokens as plain text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from llmbind_cli.tokens import TASK_TOKENS

_PAIRS = tuple((token.open, token.close) for token in TASK_TOKENS if token.close is not None)
_SINGLES = tuple(token.open for token in TASK_TOKENS)
_WORD = re.compile(r"\b[a-z]{4,}\b")
_QUESTION = re.compile(
    r"(can|could|would|will|may|might|is|are|do|does|what|how|why|where|any chance|have you)\b",
    re.IGNORECASE,
)
_BESIDE = "sq vn xv sf wr dg fh gj uo hk jl k n bm ip o w et ad ry yi cb qe zc tu x"
_NEIGHBOURS = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        _BESIDE.split(),
        strict=True,
    )
)
"""Keys beside each key of a QWERTY keyboard."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a user says, before it is typed.

    Attributes:
        sentences: In order, with or without their final points.
        greeting: What stands before the first sentence.
    """

    sentences: list[str]
    greeting: str = ""


def typed(rng: Random, line: Line, *, wish: str | None = None) -> str:
    """Type a line: neatly, in lower case, without points, in capitals or with slips.

    Args:
        rng: Source of every choice.
        line: The sentences.
        wish: Words of the line that stray task tokens may stand around.
    """
    draw = rng.random()
    text = _sentences(line, neat=draw < 0.5)
    quoted = '"' in text or "<" in text
    if 0.5 <= draw < 0.72 and not quoted:
        text = text.lower()
        if rng.random() < 0.35:
            text = re.sub(r"[,.!?']+(?=\s|$)|(?<=n)'(?=t\b)|(?<=i)'(?=[dm]\b)", "", text)
    elif 0.72 <= draw < 0.735 and not quoted:
        text = text.upper()
    elif 0.735 <= draw < 0.78:
        text = text.rstrip(".!") + rng.choice(("!!", "...", " :)", " <3", " 🙂", " 🙏", "!!!"))
    if rng.random() < 0.07 and not quoted:
        text = _slip(rng, text)
    if rng.random() < 0.018:
        text = _with_tags(rng, text, wish)
    return text


def _sentences(line: Line, *, neat: bool) -> str:
    sentences = list(line.sentences)
    if line.greeting:
        head = sentences[0]
        keep = head[:2] in {"I ", "I'"} or head[:1] == '"' or head[1:2].isupper()
        sentences[0] = f"{line.greeting}, {head if keep else head[:1].lower() + head[1:]}"
    last = len(sentences) - 1
    parts = []
    for index, sentence in enumerate(sentences):
        part = sentence
        if neat or index:
            part = part[:1].upper() + part[1:]
        if part[-1:] not in ".?!:;" and (neat or index < last):
            part += "?" if _QUESTION.match(sentence) and neat else "."
        parts.append(part)
    return " ".join(parts)


def _slip(rng: Random, text: str) -> str:
    """Mistype one to three words."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    for match in sorted(rng.sample(words, min(len(words), rng.randint(1, 3))), key=_end)[::-1]:
        word = match[0]
        at = rng.randrange(1, len(word) - 1)
        kind = rng.random()
        if kind < 0.35:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        elif kind < 0.65:
            word = word[:at] + word[at + 1 :]
        elif kind < 0.8:
            word = word[:at] + word[at] + word[at:]
        else:
            word = word[:at] + rng.choice(_NEIGHBOURS[word[at]]) + word[at + 1 :]
        text = text[: match.start()] + word + text[match.end() :]
    return text


def _end(match: re.Match[str]) -> int:
    return match.end()


def _with_tags(rng: Random, text: str, wish: str | None) -> str:
    """Put task tokens into a user's line, where they are plain text."""
    opening, closing = rng.choice(_PAIRS)
    kind = rng.random()
    if wish and wish in text and kind < 0.5:
        return text.replace(wish, f"{opening} {wish} {closing}", 1)
    if kind < 0.6:
        return f"{opening} {text} {closing}"
    stray = rng.choice((opening, closing, f"{opening}{closing}", rng.choice(_SINGLES)))
    return f"{text} {stray}" if kind < 0.85 else f"{stray} {text}"


def some_tags(rng: Random) -> tuple[str, str]:
    """Draw an opening and a closing token to talk about."""
    return rng.choice(_PAIRS)
