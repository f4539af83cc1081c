"""Which words of a prompt the world knows, and which lie outside of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmbind_cli.data.scenes.colours import COLOUR_WORDS
from llmbind_cli.data.scenes.wording import fixed_phrases, place_words
from llmbind_cli.data.scenes.world import Thing, World, load_world

_WORD = re.compile(r"[a-z0-9]+(?:['-]+[a-z0-9]+)*'?")
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
        plus together very really please pair pairs few several many no not draw paint make show
        create generate picture image drawing illustration photo painting sketch
        background backdrop foreground wall plain simple white scene shows see seen can
        style look up down off out around through against along like but so all
        1 2 3 then flat high low half isolated portrait digital vector art colourful
        colorful quality
        """,
    )
)

_JOINING = frozenset(
    """or and with of on in at to by for from into over under above below beneath behind beside
    between near next left right like plus while who which as""".split()  # noqa: SIM905
)
_LEADING_ON = _JOINING | frozenset("a an the some any its his her their my your our".split())  # noqa: SIM905
"""Words that a prompt cannot end with."""

_JOINED = frozenset("and or with of to by from as who which".split())  # noqa: SIM905
"""Words that it cannot start with."""

_SINGLE_COLOURS = frozenset(word for phrase in COLOUR_WORDS for word in phrase.split())
_DESCRIBING = _SINGLE_COLOURS | frozenset(
    """a an the some one two three 1 2 3 small tiny little large big huge giant""".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a prompt the world knows.

    Attributes:
        things: The things named, in the order of the prompt; for a category word ("flower") the
            first thing of the category.
        unknown: The words that are neither a thing nor a fact or style that captions have.
        known: The prompt without the unknown words.
        essence: Its things alone, each with the number, size and colour words before it.
    """

    things: tuple[Thing, ...]
    unknown: tuple[str, ...]
    known: str
    essence: str


def nearest(prompt: str, world: World | None = None) -> Coverage:
    """Find the things that a prompt names, longest names first.

    Args:
        prompt: What is to be drawn.
        world: The things; ``None`` takes those of the package.

    Returns:
        The known things, the unknown words, and what is left without these.
    """
    names = (world or load_world()).by_phrase
    fixed, harmless = fixed_phrases(), _harmless()
    matches = list(_WORD.finditer(prompt.lower().replace("’", "'")))
    words = [match[0] for match in matches]
    things: list[Thing] = []
    unknown: list[str] = []
    essence: list[str] = []
    kinds: list[str] = []  # of each word
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            # An apostrophe at the end is a quotation mark unless a name goes on after it.
            phrase = " ".join(words[at : at + length]).removesuffix("'")
            meant = next((names[form] for form in _forms(phrase) if form in names), ())
            if phrase in COLOUR_WORDS:
                taken = bool(meant) and not _names_thing(words[at + length :], names)
            else:
                # "Oil painting" is a style, unless nothing else is asked for.
                taken = bool(meant) and (phrase not in fixed or not things)
            if taken:
                things.append(meant[0])
                essence.append(" ".join([*_described(words[:at]), phrase]))
            if taken or phrase in harmless:
                kinds += ["thing" if taken else "known"] * length
                break
        else:
            length = 1
            unknown.append(words[at].removesuffix("'"))
            kinds.append("unknown")
        at += length
    gaps = [matches[place].span() for place in _left_out(words, kinds)]
    return Coverage(
        things=tuple(dict.fromkeys(things)),
        unknown=tuple(dict.fromkeys(unknown)),
        known=_without(prompt, gaps),
        essence=" and ".join(dict.fromkeys(essence)),
    )


def _described(before: list[str]) -> list[str]:
    """Return the words right before a thing that tell its number, size or colour."""
    place = len(before)
    while place and before[place - 1] in _DESCRIBING:
        place -= 1
    return before[place:]


def _left_out(words: list[str], kinds: list[str]) -> list[int]:
    """Return the places of the unknown words, and of the words that describe one of them."""
    places = {place for place, kind in enumerate(kinds) if kind == "unknown"}
    for place in sorted(places):
        after = next((kind for kind in kinds[place + 1 :] if kind != "unknown"), "")
        before = place - 1
        while (
            after != "thing" and before >= 0
            and kinds[before] == "known" and words[before] not in _JOINING
        ):  # fmt: skip
            places.add(before)
            before -= 1
    return sorted(places)


def _without(prompt: str, gaps: list[tuple[int, int]]) -> str:
    """Cut parts out of a prompt, and the commas and small words that then lead nowhere."""
    if not gaps:
        return prompt
    kept, start = [], 0
    for left, right in gaps:
        kept.append(prompt[start:left])
        start = right
    text = "".join([*kept, prompt[start:]])
    clauses = []
    for clause in text.split(","):
        words = clause.split()
        while words and words[-1].lower().strip(".;:!") in _LEADING_ON:
            words.pop()
        while words and words[0].lower() in _JOINED:
            words.pop(0)
        if words:
            clauses.append(" ".join(words))
    return ", ".join(clauses)


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
