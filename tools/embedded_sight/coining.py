"""Words that nothing bears, in place of the names of things that a list cannot name.

Who hears a new word and sees one thing whose name is unknown takes the word to mean that. Networks
do the contrary unless they are taught (Gandhi and Lake, arXiv 1906.10197, on mutual exclusivity):
with the names of 745 things alone, each without its own name in some lists, a pointer learns what
each looks like to the projector, and not that a word which fits nothing means what nothing fits.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any

from embedded_sight.lists import strange_names
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.pictures import ScenePicture
from llmbind_cli.data.scenes.world import Thing

if TYPE_CHECKING:
    from embedded_sight.names import Names

_SHORTEST = 4
_TWO_WORDS = 0.3
_SYLLABLES = 0.4
"""Shares of the coined words that are two words, and that are made of syllables."""

_ONSETS = ("b", "br", "d", "dr", "f", "fl", "g", "gl", "k", "l", "m", "n", "p", "pl", "r", "s",
           "st", "t", "tr", "v", "w", "z")  # fmt: skip
_RHYMES = ("a", "an", "ark", "e", "el", "en", "i", "ib", "im", "o", "on", "oop", "u", "um", "ux")


class Coinage:
    """Words that name nothing in a world: a tokenizer's whole words, and some made of syllables.

    Args:
        tokenizer: Of the language model.
        world: The things; no word of their names, and none of a colour's, is coined.

    Attributes:
        words: The tokenizer's.
    """

    def __init__(self, tokenizer: Any, world: Iterable[Thing]) -> None:
        taken = {word for name in NAMES for word in name.split()}
        for thing in world:
            for noun in (*thing.names, *thing.category_words):
                taken |= {*re.findall(r"[a-z]+", f"{noun.one} {noun.many}".lower())}
        pieces = (tokenizer.convert_tokens_to_string([piece]) for piece in tokenizer.get_vocab())
        whole = {piece[1:] for piece in pieces if piece.startswith(" ")}
        fitting = (word for word in whole if word.isascii() and word.isalpha() and word.islower())
        self.words = sorted(w for w in fitting if len(w) >= _SHORTEST and w not in taken)
        self._taken = taken

    def coin(self, chance: Random) -> str:
        """Return a word or two."""
        count = 2 if chance.random() < _TWO_WORDS else 1
        return " ".join(
            self._made(chance) if chance.random() < _SYLLABLES else chance.choice(self.words)
            for _ in range(count)
        )

    def _made(self, chance: Random) -> str:
        """Return a word of syllables."""
        while True:
            count = chance.choice((2, 2, 3))
            word = "".join(chance.choice(_ONSETS) + chance.choice(_RHYMES) for _ in range(count))
            if word not in self._taken:
                return word


class CoinedWords:
    """Lets strange things in what is said about scenes bear words that nothing bears otherwise.

    Which things of a scene are strange follows from its sample as in
    :class:`~embedded_sight.lists.StrangeLists`, whose lists go with such samples. Where none is,
    nothing can bear a coined word, so it may also name what is asked for in vain.

    Args:
        names: Of the things that training knows.
        world: All things.
        coinage: Of words.
        strange: Share of the kinds of things in a picture whose names its list lacks, in [0, 1].
        share: Of those, the share that bear coined words, in [0, 1].
    """

    def __init__(
        self,
        names: Names,
        world: Iterable[Thing],
        coinage: Coinage,
        *,
        strange: float,
        share: float,
    ) -> None:
        self._names, self._coinage = names, coinage
        self._strange, self._share = strange, share
        known = [thing for thing in world if thing.name in names.number]
        self._any = _pattern(form for thing in known for form in _forms(thing, ""))

    def __call__(self, sample: Sample) -> Sample:
        """Return a sample with some names coined, its pictures and masks as they were."""
        picture = sample.pictures[0]
        if not isinstance(picture, ScenePicture):
            return sample
        lacking = {*strange_names(sample, picture, self._names, self._strange)}
        things = {placed.thing.name: placed.thing for placed in picture.arrangement.things}
        for name, thing in sorted(things.items()):
            chance = Random(f"coined/{sample.id}/{name}")
            if self._names.number.get(name) in lacking and chance.random() < self._share:
                sample = _renamed(sample, thing, self._coinage.coin(chance))
        return sample if lacking else self._in_vain(sample)

    def _in_vain(self, sample: Sample) -> Sample:
        """Coin some names in questions whether something is there that is not."""
        turns = list(sample.turns)
        for number in range(0, len(turns), 2):
            chance = Random(f"in vain/{sample.id}/{number}")
            found = [*self._any.finditer(turns[number].text)]
            in_vain = turns[number + 1].text.strip(".").lower() == "no" and len(found) == 1
            if in_vain and chance.random() < self._share:
                start, end = found[0].span()
                said = turns[number].text
                said = f"{said[:start]}{self._coinage.coin(chance)}{said[end:]}"
                turns[number] = dataclasses.replace(turns[number], text=said)
        return dataclasses.replace(sample, turns=turns)


def _forms(thing: Thing, word: str) -> dict[str, str]:
    """Return a thing's names, in lower case, with what becomes of each: a word, one or several."""
    forms = {noun.one.lower(): word for noun in thing.names}
    return forms | {noun.many.lower(): f"{word}s" for noun in thing.names if noun.many}


def _pattern(forms: Iterable[str]) -> re.Pattern[str]:
    """Return what finds names in a text, the longest first."""
    longest = sorted({*forms}, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest))})\b", re.IGNORECASE)


def _renamed(sample: Sample, thing: Thing, word: str) -> Sample:
    """Call a thing by another word wherever a sample has one of its names."""
    forms = _forms(thing, word)
    pattern = _pattern(forms)

    def renamed(text: str) -> str:
        return pattern.sub(lambda found: forms[found[1].lower()], text)

    return dataclasses.replace(
        sample,
        turns=[dataclasses.replace(turn, text=renamed(turn.text)) for turn in sample.turns],
        segments=tuple(
            dataclasses.replace(one, phrase=renamed(one.phrase)) for one in sample.segments
        ),
    )
