"""How masks and plain answers are asked for, and what is replied; the phrase files beside it."""

from __future__ import annotations

import functools
from importlib import resources
from random import Random

from llmbind_cli.data.dialogues.grammar import PhraseBank, finish, read_bank
from llmbind_cli.data.dialogues.replies import without_task_tokens
from llmbind_cli.data.segmentation.annotations import Naming
from llmbind_cli.data.spellings import SEGMENT

_ASKS: dict[Naming, str] = {
    "phrase": "ask_phrase",
    "part": "ask_phrase",
    "class": "ask_class",
    "sentence": "ask_sentence",
    "plural": "ask_plural",
}
_NAMED = 0.4
"""How often a reply says again what it has marked, where that is short."""

_SHORT = 60
_CAPITAL = 0.65
_POINT = 0.7


@functools.cache
def bank() -> PhraseBank:
    """Load the phrase files of this package."""
    return read_bank(resources.files(__package__) / "phrases")


def question(rng: Random, naming: Naming, name: str) -> str:
    """Ask for a mask.

    Args:
        rng: Source of chance; the same state gives the same words.
        naming: What kind of words ``name`` is.
        name: What is meant.
    """
    name = _sentence(name) if naming == "sentence" else name
    return _said(rng, bank().pick(rng, _ASKS[naming], x=name))


def question_for_two(rng: Random, first: str, second: str) -> str:
    """Ask for two masks at once."""
    return _said(rng, bank().pick(rng, "ask_two", x=first, y=second))


def question_why(rng: Random, text: str) -> str:
    """Add the wish for a reason to a question."""
    return f"{text.rstrip()} {_begun(finish(bank().pick(rng, 'ask_why')))}"


def reply(rng: Random, naming: Naming, name: str, *, tied: bool = False) -> str:
    """Answer with one segmentation token.

    A name that spells a task token loses it: what a data file says never becomes a call.

    Args:
        rng: Source of chance.
        naming: What kind of words ``name`` is.
        name: What is marked.
        tied: Say the name right before the token, whose state then follows from it.
    """
    name = without_task_tokens(name).strip()
    if tied and name:
        return _begun(bank().pick(rng, "reply_tied", x=name, seg=SEGMENT))
    named = naming in ("phrase", "plural") and name and len(name) <= _SHORT
    if named and rng.random() < _NAMED:
        section = "reply_many" if naming == "plural" else "reply_named"
        return _begun(finish(bank().pick(rng, section, x=name, seg=SEGMENT)))
    return finish(bank().pick(rng, "reply_one", seg=SEGMENT))


def reply_for_two(rng: Random, first: str, second: str) -> str:
    """Answer with two segmentation tokens, each tied to its words."""
    first, second = (without_task_tokens(name).strip() for name in (first, second))
    return _begun(finish(bank().pick(rng, "reply_two", x=first, y=second, seg=SEGMENT)))


def reply_nothing(rng: Random, name: str) -> str:
    """Answer that nothing in the picture is what was asked for."""
    return finish(bank().pick(rng, "reply_nothing", x=without_task_tokens(name)))


def plain_question(rng: Random, kind: str, **words: str) -> str:
    """Ask something that words answer.

    Args:
        rng: Source of chance.
        kind: Section of the phrase files, such as ``is_there`` or ``how_many``.
        words: Values of the section.
    """
    return _said(rng, bank().pick(rng, kind, **words))


def plain_reply(answer: str) -> str:
    """Word a plain answer: short, and always in the same way, so that it can be scored exactly."""
    text = without_task_tokens(answer).strip()
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _said(rng: Random, text: str) -> str:
    """Write a question as people do: mostly with a capital and a mark at its end."""
    text = finish(text)
    if rng.random() < _CAPITAL:
        text = _begun(text)
    if text[-1].isalnum() and rng.random() < _POINT:
        text += "."
    return text


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    """Give a question that stands alone a mark at its end."""
    text = text.strip()
    return text if text[-1:] in ".?!" else f"{text}."
