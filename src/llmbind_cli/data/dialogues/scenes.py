"""Wishes: what a picture, a clip or a sound is to be of, in words.

A wish is drawn from a grammar of things, actions, places, sounds and music, or is a caption. Any
wish may be asked for in any medium, so that the request's wording decides and not its subject.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Literal

from llmbind_cli.data.dialogues.grammar import finish, phrases

Medium = Literal["image", "video", "audio"]

MEDIA: tuple[Medium, ...] = ("image", "video", "audio")

_BEINGS = ("animal", "animal", "animal", "creature", "person", "person")
_THINGS = ("object", "object", "food", "vehicle", "plant", "building")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wished for.

    Attributes:
        text: The wish as a phrase that can follow "of", or a caption.
        subject: Noun that an edit can name ("fox", "candles"); ``None`` where none is known.
        plural: Whether ``subject`` is plural.
        alive: Whether the subject can wear and do things.
        clause: Whether ``text`` is a caption, which may be a whole clause.
        looks: Modifiers that the prompt carries after the text.
    """

    text: str
    subject: str | None = None
    plural: bool = False
    alive: bool = False
    clause: bool = False
    looks: tuple[str, ...] = ()

    @property
    def full(self) -> str:
        """The wish with its modifiers, as a written prompt has it."""
        return joined(self.text, self.looks)


def joined(text: str, looks: tuple[str, ...]) -> str:
    """Append modifiers to a wish, those that start with a preposition without a comma."""
    comma = text[-1:] in ".?!"
    for look in looks:
        comma = comma or look.split(" ", 1)[0] not in _PREPOSITIONS
        text = f"{text}, {look}" if comma else f"{text} {look}"
    return text


_PREPOSITIONS = frozenset(
    ("in", "with", "as", "from", "for", "at", "through", "against", "on", "like")
)


_CONTAINER = re.compile(r"(\w+)( of .+)")


def singular_plural(noun: str) -> tuple[str, str]:
    """Return both numbers of a noun written as "fox" or "mouse/mice"."""
    one, slash, many = noun.partition("/")
    if slash:
        return one, many
    container = _CONTAINER.fullmatch(one)
    head, rest = container.groups() if container else (one, "")
    if head.endswith("man") and not head.endswith(("human", "shaman")):
        head = head[:-3] + "men"
    elif head.endswith(("s", "x", "ch", "sh")):
        head += "es"
    elif head.endswith("y") and head[-2] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return one, head + rest


def noun(rng: Random, family: str) -> tuple[str, str]:
    """Draw a noun of a family; return its singular and plural."""
    return singular_plural(phrases().pick(rng, family))


def being(rng: Random) -> tuple[str, str]:
    """Draw a noun for someone who acts, now and then a compound such as "otter knight"."""
    if rng.random() < 0.08:
        first = noun(rng, rng.choice(("animal", "creature")))[0]
        one, many = noun(rng, "person")
        return f"{first} {one}", f"{first} {many}"
    return noun(rng, rng.choice(_BEINGS))


def _described(rng: Random, one: str) -> str:
    draw = rng.random()
    bank = phrases()
    if draw < 0.42:
        return one
    if draw < 0.68:
        return f"{bank.pick(rng, 'adjective')} {one}"
    if draw < 0.9:
        return f"{bank.pick(rng, 'colour')} {one}"
    return f"{bank.pick(rng, 'adjective')} {bank.pick(rng, 'colour')} {one}"


def visual(rng: Random) -> Wish:
    """Draw a scene that can be seen."""
    draw = rng.random()
    if draw < 0.55:
        return _acting(rng)
    if draw < 0.76:
        return _standing(rng)
    bank = phrases()
    if draw < 0.85:
        text = bank.pick(rng, "landscape").removeprefix("~")
        if rng.random() < 0.4:
            text += " " + bank.pick(rng, "time")
        return Wish(finish(text))
    if draw < 0.93:
        a, b = being(rng), being(rng)
        text = bank.pick(rng, "relation", a=_described(rng, a[0]), b=b[0])
        if rng.random() < 0.35:
            text += " " + bank.pick(rng, "place")
        return Wish(finish(text), subject=a[0], alive=True)
    some, others = noun(rng, rng.choice(_THINGS)), noun(rng, rng.choice(_THINGS))
    few, other = rng.sample(("two", "three", "four", "five", "six", "seven"), 2)
    text = bank.pick(rng, "instead", few=few, other=other, plural=some[1], plural2=others[1])
    return Wish(finish(text), subject=some[1], plural=True)


def _acting(rng: Random) -> Wish:
    bank = phrases()
    one, many = being(rng)
    text, plural = _counted(rng, one, many)
    if rng.random() < 0.28:
        text += " " + bank.pick(rng, "wearing")
    if rng.random() < 0.66:
        text += " " + bank.pick(rng, "action")
    if rng.random() < 0.42:
        text += " " + bank.pick(rng, "place")
    if rng.random() < 0.2:
        text += " " + bank.pick(rng, "time")
    return Wish(finish(text), subject=many if plural else one, plural=plural, alive=True)


def _standing(rng: Random) -> Wish:
    bank = phrases()
    family = rng.choice(_THINGS)
    one, many = noun(rng, family)
    text, plural = _counted(rng, one, many)
    draw = rng.random()
    if family == "vehicle" and draw < 0.6:
        text += " " + bank.pick(rng, "vehicle_action")
    elif family in {"object", "food"} and draw < 0.5:
        text += " " + bank.pick(rng, "thing_state")
    elif draw < 0.55:
        text += " " + bank.pick(rng, "place")
    if rng.random() < 0.2:
        text += " " + bank.pick(rng, "time")
    return Wish(finish(text), subject=many if plural else one, plural=plural)


def _counted(rng: Random, one: str, many: str) -> tuple[str, bool]:
    draw = rng.random()
    if draw < 0.7:
        return f"\x01 {_described(rng, one)}", False
    if draw < 0.92:
        return f"{phrases().pick(rng, 'number')} {_described(rng, many)}", True
    return f"{phrases().pick(rng, 'group')} {_described(rng, many)}", True


def audible(rng: Random) -> Wish:
    """Draw something that can be heard: a voice, an ambience or a piece of music."""
    bank = phrases()
    draw = rng.random()
    if draw < 0.36:
        one, does = bank.pick(rng, "voice").split("/")
        one, many = singular_plural(one)
        text, plural = _counted(rng, one, many)
        text = f"{text} {does}"
        if rng.random() < 0.25:
            text += " " + bank.pick(rng, "place")
        return Wish(finish(text), subject=many if plural else one, plural=plural, alive=True)
    if draw < 0.72:
        text = bank.pick(rng, "ambience")
        if rng.random() < 0.2:
            text += rng.choice((" and ", " while ", ", then ", " with ", ", followed by "))
            text += bank.pick(rng, "ambience")
            text = text.replace(" while ", " and then ")
        return Wish(finish(text))
    return Wish(music(rng))


def music(rng: Random) -> str:
    """Draw a piece of music, as a noun phrase."""
    return finish(phrases().pick(rng, "music"))


def looks(rng: Random, medium: Medium) -> tuple[str, ...]:
    """Draw zero to three modifiers that fit a medium."""
    bank = phrases()
    draw = rng.random()
    many = 0 if draw < 0.5 else 1 if draw < 0.82 else 2 if draw < 0.96 else 3
    drawn: list[str] = []
    for _ in range(many):
        kind = rng.random()
        if kind < 0.14:
            drawn.append(bank.pick(rng, f"{medium}_without"))
        elif medium == "image" and kind < 0.55:
            if not any(entry.startswith("in ") for entry in drawn):
                drawn.append(f"in {bank.pick(rng, 'style')}")
        else:
            drawn.append(bank.pick(rng, f"{medium}_look"))
    return tuple(dict.fromkeys(drawn))
