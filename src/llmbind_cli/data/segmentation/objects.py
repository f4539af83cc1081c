"""Single things in a picture, and which of them an expression means.

Words are judged twice: what they surely mean, and what they might. An expression is fit to be asked
only where both agree, so that nobody could mean another thing by it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmbind_cli.data.masks import MaskSource
from llmbind_cli.data.scenes.graph import Box, Side
from llmbind_cli.data.scenes.nouns import Noun

Edge = Literal["left", "right", "top", "bottom"]
Extreme = Literal["leftmost", "rightmost", "topmost", "bottommost", "largest", "smallest"]

_GAP = 0.12
"""Share of the picture that two centres are apart, at least, for one to be farther to a side."""

_LOW, _HIGH = 0.42, 0.5
"""A thing at a side has its centre below the first; one that is not has it above the second."""

_NEAR = 0.03
_SLANT = 1.2
_LARGER = 1.5
"""Areas that differ less look alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenObject:
    """One thing in a picture.

    Attributes:
        names: Names that surely fit it.
        loose: Further words that might mean it, lower case.
        box: Where it is; x and y as shares of width and height.
        area: Its visible pixels as a share of the picture.
        mask: Its pixels.
        colours: Colours that it surely has.
        loose_colours: Colours that one might see in it, those of ``colours`` among them.
        properties: What surely holds for it, as knowledge names it.
        loose_properties: What might hold, those of ``properties`` among them.
    """

    names: tuple[Noun, ...]
    box: Box
    area: float
    mask: MaskSource
    loose: frozenset[str] = frozenset()
    colours: frozenset[str] = frozenset()
    loose_colours: frozenset[str] = frozenset()
    properties: frozenset[str] = frozenset()
    loose_properties: frozenset[str] = frozenset()

    def is_called(self, noun: str) -> bool:
        """Tell whether a singular surely names it."""
        return noun in _called(self.names)

    def may_be_called(self, noun: str) -> bool:
        """Tell whether a singular might mean it: "the dog" may be a hot dog."""
        words, heads, parts = _vocabulary(self.names, self.loose)
        return noun in words or head_of(noun) in heads or noun in parts


@functools.lru_cache(maxsize=4096)
def _called(names: tuple[Noun, ...]) -> frozenset[str]:
    return frozenset(name.one.lower() for name in names)


@functools.lru_cache(maxsize=4096)
def _vocabulary(
    names: tuple[Noun, ...], loose: frozenset[str]
) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return what might name a thing, the heads of these words, and the words of the heads."""
    words = loose | _called(names)
    heads = frozenset(map(head_of, words))
    return words, heads, frozenset(word for head in heads for word in head.split())


@functools.lru_cache(maxsize=4096)
def head_of(noun: str) -> str:
    """Return the word of a noun that says what it is: "glass of milk" is a glass."""
    return noun.partition(" of ")[0].rpartition(" ")[2].removesuffix("s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What an expression says.

    Attributes:
        noun: Singular, lower case; "" for "the thing".
        colour: Name of a colour; "" for none.
        quality: Name of a property; "" for none.
        without: Whether the property is denied.
        edge: Side of the picture.
        extreme: Which of several.
        side: Where it is, seen from ``anchor``.
        anchor: What it is compared with.
    """

    noun: str = ""
    colour: str = ""
    quality: str = ""
    without: bool = False
    edge: Edge | None = None
    extreme: Extreme | None = None
    side: Side | None = None
    anchor: Query | None = field(default=None)


def resolve(query: Query, objects: Sequence[SeenObject]) -> tuple[frozenset[int], frozenset[int]]:
    """Find what an expression means.

    Args:
        query: The expression.
        objects: All things of the picture.

    Returns:
        Indices of what it surely means, and of what it might mean. The first are among the second.
    """
    sure = {i for i, seen in enumerate(objects) if _fits(query, seen)}
    might = {i for i, seen in enumerate(objects) if _might_fit(query, seen)}
    if query.side is not None and query.anchor is not None:
        anchors, loose_anchors = resolve(query.anchor, objects)
        if len(loose_anchors) != 1 or anchors != loose_anchors:
            return frozenset(), frozenset(might)
        (anchor,) = anchors
        box = objects[anchor].box
        sure = {i for i in sure - {anchor} if is_beside(objects[i].box, box, query.side)}
        might = {i for i in might - {anchor} if may_be_beside(objects[i].box, box, query.side)}
    if query.edge is not None:
        places = {i: _place(objects[i].box, query.edge) for i in might}
        sure = {i for i in sure if places[i] < _LOW}
        might = {i for i in might if places[i] < _HIGH}
    if query.extreme is not None:
        winner = _winner(query.extreme, objects, might)
        sure = sure & {winner}
        might = might if winner is None else {winner}
    return frozenset(sure & might), frozenset(might)


def meant(query: Query, objects: Sequence[SeenObject]) -> frozenset[int]:
    """Return what an expression means; nothing where it might mean something else too."""
    sure, might = resolve(query, objects)
    return sure if sure == might else frozenset()


def _fits(query: Query, seen: SeenObject) -> bool:
    if query.noun and not seen.is_called(query.noun):
        return False
    if query.colour and query.colour not in seen.colours:
        return False
    if query.quality and query.without:
        return query.quality not in seen.loose_properties
    return not query.quality or query.quality in seen.properties


def _might_fit(query: Query, seen: SeenObject) -> bool:
    if query.noun and not seen.may_be_called(query.noun):
        return False
    if query.colour and query.colour not in seen.loose_colours:
        return False
    if query.quality and query.without:
        return query.quality not in seen.properties
    return not query.quality or query.quality in seen.loose_properties


def _place(box: Box, edge: Edge) -> float:
    """Return how far a box is from a side of the picture: 0 there, 1 at the other side."""
    x, y = box.centre
    return {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}[edge]


_EDGE_OF: dict[Extreme, Edge] = {
    "leftmost": "left", "rightmost": "right", "topmost": "top", "bottommost": "bottom"
}  # fmt: skip


def _winner(extreme: Extreme, objects: Sequence[SeenObject], among: set[int]) -> int | None:
    """Return the one of at least two that is clearly ahead of all others."""
    if len(among) < 2:
        return None
    if extreme in _EDGE_OF:
        edge = _EDGE_OF[extreme]
        first, second = sorted(among, key=lambda i: _place(objects[i].box, edge))[:2]
        ahead = _place(objects[second].box, edge) - _place(objects[first].box, edge)
        return first if ahead >= _GAP else None
    order = sorted(among, key=lambda i: objects[i].area, reverse=extreme == "largest")
    areas = [objects[i].area for i in order[:2]]
    return order[0] if max(areas) >= _LARGER * min(areas) else None


def _apart(box: Box, anchor: Box, side: Side) -> tuple[float, float]:
    """Return how far a box is to a side of another one, and how far across that direction."""
    (x, y), (a, b) = box.centre, anchor.centre
    along = {"left of": a - x, "right of": x - a, "above": b - y, "below": y - b}[side]
    across = abs(y - b) if side in ("left of", "right of") else abs(x - a)
    return along, across


def is_beside(box: Box, anchor: Box, side: Side) -> bool:
    """Tell whether a box is clearly to a side of another one."""
    along, across = _apart(box, anchor, side)
    return along >= _GAP and along >= _SLANT * across


def may_be_beside(box: Box, anchor: Box, side: Side) -> bool:
    """Tell whether somebody might say that a box is to a side of another one."""
    return _apart(box, anchor, side)[0] > -_NEAR
