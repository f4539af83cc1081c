"""The things of a scene as one sees them: what they are called, what colour, what one knows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from llmbind_cli.data.scenes.arrangements import Arrangement
from llmbind_cli.data.scenes.graph import PlacedThing
from llmbind_cli.data.scenes.knowledge import properties
from llmbind_cli.data.scenes.nouns import Noun
from llmbind_cli.data.scenes.pictures import SceneMask, ScenePicture
from llmbind_cli.data.scenes.world import Thing, load_world
from llmbind_cli.data.segmentation.expressions import Knowledge
from llmbind_cli.data.segmentation.objects import SeenObject

_CLASS_WORDS = frozenset(
    {"animal", "fruit", "vegetable", "drink", "vehicle", "person", "flower", "plant", "insect",
     "musical instrument", "shoe", "hat", "ball", "building"}
)  # fmt: skip
"""Category words that name a thing in an expression: "the animal on the left"."""

_KIN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "animal": ("creature",),
        "creature": ("animal", "person"),
        "person": ("creature", "body"),
        "food": ("drink", "plant"),
        "drink": ("food", "kitchenware"),
        "plant": ("food",),
        "toy": ("sport", "household", "music"),
        "sport": ("toy", "clothing", "vehicle"),
        "vehicle": ("sport", "place"),
        "household": ("tool", "toy"),
    }
)
"""Categories whose words somebody might use for a thing of another one."""

_LIKE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "red": ("orange", "pink"),
        "orange": ("red", "yellow", "brown"),
        "yellow": ("orange",),
        "blue": ("purple",),
        "purple": ("blue", "pink"),
        "pink": ("red", "purple"),
        "brown": ("orange",),
        "black": ("grey",),
        "white": ("grey",),
        "grey": ("black", "white"),
    }
)
"""Colours that somebody might take for another one."""


def seen_objects(arrangement: Arrangement, picture: ScenePicture) -> tuple[SeenObject, ...]:
    """Return the things of a scene, in drawing order."""
    return tuple(
        _seen(placed, SceneMask(picture, (number,)))
        for number, placed in enumerate(arrangement.things)
    )


def sure_colours(placed: PlacedThing) -> frozenset[str]:
    """Return the colour that a thing has: the one it is painted in, or its only own one."""
    if placed.colour is not None:
        return frozenset({placed.colour})
    own = placed.thing.colours
    return frozenset(own) if len(own) == 1 else frozenset()


@functools.cache
def knowledge() -> Knowledge:
    """Return what can be said of things beside their names."""
    return Knowledge(
        says={entry.name: entry.say for entry in properties()},
        denies={entry.name: entry.deny for entry in properties() if entry.deny},
    )


def _seen(placed: PlacedThing, mask: SceneMask) -> SeenObject:
    thing = placed.thing
    own = frozenset(thing.colours)
    colours = sure_colours(placed)
    loose = own | colours
    holds, may_hold = _properties(thing)
    return SeenObject(
        names=_names(thing),
        loose=_loose_words(thing.category),
        box=placed.box,
        area=placed.box.width * placed.box.height,
        mask=mask,
        colours=colours,
        loose_colours=loose.union(*(_LIKE.get(colour, ()) for colour in loose)),
        properties=holds,
        loose_properties=may_hold,
    )


@functools.lru_cache(maxsize=4096)
def _names(thing: Thing) -> tuple[Noun, ...]:
    return (*thing.names, *(word for word in thing.category_words if word.one in _CLASS_WORDS))


@functools.lru_cache(maxsize=4096)
def _properties(thing: Thing) -> tuple[frozenset[str], frozenset[str]]:
    return (
        frozenset(entry.name for entry in properties() if entry.holds(thing)),
        frozenset(entry.name for entry in properties() if entry.may_hold(thing)),
    )


@functools.cache
def _loose_words(category: str) -> frozenset[str]:
    """Return the category words of a category and of its kin."""
    kin = {category, *_KIN.get(category, ())}
    return frozenset(
        word.one.lower()
        for thing in load_world()
        if thing.category in kin
        for word in thing.category_words
    )
