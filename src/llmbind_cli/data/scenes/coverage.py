"""Which words of a prompt the world knows, and which lie outside of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmbind_cli.data.scenes.colours import COLOUR_WORDS
from llmbind_cli.data.scenes.wording import fixed_phrases, place_words
from llmbind_cli.data.scenes.world import Thing, World, load_world

_WORD = re.compile(r"[a-z0-9]+(?:['-]+[a-z0-9]+)*")
_LONGEST = 6
"""Most words of one name."""

_SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a an the some any one two three four five six seven eight nine ten and or with of
        on in at to by for from into over under above below beneath underneath behind
        beside between near next left right top bottom upper lower side sides middle
        centre center corner edge row front back its it is are be there this that these
        those his her their my your our me us we i you as while who which just only also
        plus together very really please pair few several many no not draw paint make show
        create generate picture image drawing illustration photo painting sketch
        background backdrop foreground wall plain simple white scene shows see seen can
        style look up down off out around through against along like but so all
        1 2 3 then flat high low half isolated portrait digital vector art colourful
        colorful quality
        """,
    )
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a prompt the world knows.

    Attributes:
        things: The things named, in the order of the prompt; for a category word ("flower") the
            first thing of the category.
        unknown: The words that are neither a thing nor a fact or style that captions have.
    """

    things: tuple[Thing, ...]
    unknown: tuple[str, ...]


def nearest(prompt: str, world: World | None = None) -> Coverage:
    """Find the things that a prompt names, longest names first.

    Args:
        prompt: What is to be drawn.
        world: The things; ``None`` takes those of the package.

    Returns:
        The known things and the unknown words.
    """
    names = (world or load_world()).by_phrase
    fixed, harmless = fixed_phrases(), _harmless()
    words = _WORD.findall(prompt.lower().replace("’", "'"))
    things: list[Thing] = []
    unknown: list[str] = []
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            phrase = " ".join(words[at : at + length])
            meant = next((names[form] for form in _forms(phrase) if form in names), ())
            if phrase in COLOUR_WORDS:
                taken = bool(meant) and not _names_thing(words[at + length :], names)
            else:
                # "Oil painting" is a style, unless nothing else is asked for.
                taken = bool(meant) and (phrase not in fixed or not things)
            if taken:
                things.append(meant[0])
            if taken or phrase in harmless:
                break
        else:
            length = 1
            unknown.append(words[at])
        at += length
    return Coverage(tuple(dict.fromkeys(things)), tuple(dict.fromkeys(unknown)))


def _names_thing(words: list[str], names: Mapping[str, tuple[Thing, ...]]) -> bool:
    """Tell whether words start with a thing's name, so that "orange" before them is a colour."""
    return any(" ".join(words[:length]) in names for length in range(1, _LONGEST + 1))


@functools.cache
def _harmless() -> frozenset[str]:
    """Return the words and phrases that are facts or styles, or carry no meaning of their own."""
    return _SMALL_WORDS | frozenset(COLOUR_WORDS) | place_words() | fixed_phrases()


def _forms(phrase: str) -> tuple[str, ...]:
    """Return the spellings under which the world may have a phrase."""
    bare = phrase.removesuffix("'s")
    return (phrase, phrase.replace("-", " "), phrase.replace(" ", "-"), bare)
