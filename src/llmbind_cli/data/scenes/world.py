"""The things of the world, as ``things.jsonl`` beside this file lists them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from llmbind_cli.data.scenes.nouns import Noun, parse_noun

WORLD_FILE = "things.jsonl"

RealSize = Literal["small", "medium", "large"]

ALONE = frozenset({"view"})
"""Categories whose pictures fill the frame: they stand alone, as they are."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that can be named and drawn.

    Attributes:
        name: Canonical name, one for each thing ("dog").
        noun: The canonical name with article and plural.
        codes: Code points of its looks, lower case, joined by ``-``, without ``fe0f``. Most things
            have one look; a dog has two, the whole animal and its head.
        synonyms: Other names, none of which names another thing.
        category: One word for the kind ("animal").
        category_words: Names that other things share ("pet"); none is another thing's name.
        size: Its size in the real world.
        colours: Named colours that cover most of its picture, the largest first.
        recolour: Whether it stays itself in another colour.
    """

    name: str
    noun: Noun
    codes: tuple[str, ...]
    synonyms: tuple[Noun, ...]
    category: str
    category_words: tuple[Noun, ...]
    size: RealSize
    colours: tuple[str, ...]
    recolour: bool

    @property
    def names(self) -> tuple[Noun, ...]:
        """The canonical name and the synonyms."""
        return (self.noun, *self.synonyms)

    @property
    def alone(self) -> bool:
        """Whether its picture fills the frame, so that nothing can stand beside it."""
        return self.category in ALONE

    @property
    def countable(self) -> bool:
        """Whether two of it can be asked for."""
        return self.noun.many is not None and not self.alone

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Thing:
        """Read one line of the world file, which the tests keep valid."""
        article = "a" if record["article"] == "an" else record["article"]
        return cls(
            name=record["name"],
            noun=Noun(one=record["name"], many=record["plural"], article=article),
            codes=tuple(record["codes"]),
            synonyms=tuple(map(parse_noun, record["synonyms"])),
            category=record["category"],
            category_words=tuple(map(parse_noun, record["category_words"])),
            size=record["size"],
            colours=tuple(record["colours"]),
            recolour=record["recolour"],
        )


class World:
    """All things, in the order of the file.

    Args:
        things: The things.

    Raises:
        ValueError: A canonical name stands twice.
    """

    def __init__(self, things: tuple[Thing, ...]) -> None:
        self.things = things
        self._by_name = {thing.name: thing for thing in things}
        if len(self._by_name) != len(things):
            raise ValueError("two things share a canonical name")

    def __len__(self) -> int:
        """Number of things."""
        return len(self.things)

    def __iter__(self) -> Iterator[Thing]:
        """The things in the order of the file."""
        return iter(self.things)

    def __getitem__(self, name: str) -> Thing:
        """The thing of a canonical name.

        Raises:
            KeyError: No thing has this name.
        """
        return self._by_name[name]

    @functools.cached_property
    def by_phrase(self) -> Mapping[str, tuple[Thing, ...]]:
        """Every name, singular or plural, lower case → the things it may mean.

        A canonical name and a synonym mean one thing; a category word may mean several.
        """
        meant: dict[str, dict[str, Thing]] = {}
        for thing in self.things:
            for noun in (*thing.names, *thing.category_words):
                for form in (noun.one, noun.many):
                    if form is not None:
                        meant.setdefault(form.lower(), {})[thing.name] = thing
        return {phrase: tuple(things.values()) for phrase, things in meant.items()}


@functools.cache
def load_world() -> World:
    """Load the world that ships with the package."""
    text = (resources.files(__package__) / WORLD_FILE).read_text(encoding="utf-8")
    return World(tuple(Thing.from_record(json.loads(line)) for line in text.splitlines()))
