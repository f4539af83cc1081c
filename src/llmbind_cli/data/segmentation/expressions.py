"""Expressions for the things of a picture: by name, colour, place, size, and by what one knows.

Only those are drawn that mean one thing and could mean no other (:func:`objects.meant`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from llmbind_cli.data.scenes.graph import Side
from llmbind_cli.data.scenes.nouns import Noun
from llmbind_cli.data.segmentation.objects import Edge, Extreme, Query, SeenObject, meant

ExpressionKind = Literal["refer", "spatial", "reason", "group"]

_THINGS = ("thing", "object", "one", "item")
_PLAIN_NAME = 0.6
"""How often the first name is used where there are others."""

_EDGES: Mapping[Edge, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at the left", "to the left"),
    "right": ("on the right", "on the right side", "at the right", "to the right"),
    "top": ("at the top", "in the upper part", "near the top", "up at the top"),
    "bottom": ("at the bottom", "in the lower part", "near the bottom", "down at the bottom"),
}
_EXTREMES: Mapping[Extreme, tuple[str, ...]] = {
    "leftmost": ("the leftmost {x}", "the {x} farthest to the left", "the {x} most to the left"),
    "rightmost": (
        "the rightmost {x}",
        "the {x} farthest to the right",
        "the {x} most to the right",
    ),
    "topmost": ("the topmost {x}", "the highest {x}", "the {x} nearest to the top"),
    "bottommost": ("the bottommost {x}", "the lowest {x}", "the {x} nearest to the bottom"),
    "largest": ("the largest {x}", "the biggest {x}", "the {x} that takes up the most room"),
    "smallest": ("the smallest {x}", "the tiniest {x}", "the {x} that takes up the least room"),
}
_SIDES: Mapping[Side, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "higher up than", "over"),
    "below": ("below", "lower down than", "under"),
}


@dataclass(frozen=True, slots=True)
class Expression:
    """Words for something in a picture.

    Attributes:
        text: "the dog on the left".
        kind: ``refer`` by name and colour, ``spatial`` by place or size, ``reason`` by what one
            knows, ``group`` for all things of a name.
        targets: Indices of what is meant, ascending.
        query: What the words say.
    """

    text: str
    kind: ExpressionKind
    targets: tuple[int, ...]
    query: Query


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What can be said of things beside their names.

    Attributes:
        says: Name of a property → ways to say it after "the one".
        denies: Name of a property → ways to say that it does not hold.
    """

    says: Mapping[str, tuple[str, ...]]
    denies: Mapping[str, tuple[str, ...]]


NO_KNOWLEDGE = Knowledge(says={}, denies={})


def draw_expressions(
    rng: Random,
    objects: Sequence[SeenObject],
    kind: ExpressionKind,
    *,
    knowledge: Knowledge = NO_KNOWLEDGE,
) -> Iterator[Expression]:
    """Yield every fit expression of a kind once, in random order and with random words.

    Args:
        rng: Source of chance; the same state gives the same expressions.
        objects: All things of the picture; one without a name is never asked for, yet counts as
            what might be meant.
        kind: Which of them to draw.
        knowledge: What is known of them, for ``reason``.
    """
    named = [seen for seen in objects if seen.names]
    candidates = list(_CANDIDATES[kind](rng, named, knowledge))
    rng.shuffle(candidates)
    tried = set()
    for text, query in candidates:
        if query in tried:
            continue
        tried.add(query)
        targets = meant(query, objects)
        if len(targets) > 1 if kind == "group" else len(targets) == 1:
            yield Expression(text, kind, tuple(sorted(targets)), query)


_Candidates = Iterator[tuple[str, Query]]


def _named(rng: Random, seen: SeenObject) -> Noun:
    names = seen.names
    return names[0] if len(names) == 1 or rng.random() < _PLAIN_NAME else rng.choice(names[1:])


def _refer(rng: Random, objects: Sequence[SeenObject], _: Knowledge) -> _Candidates:
    for seen in objects:
        noun = _named(rng, seen).one
        yield f"the {noun}", Query(noun=noun.lower())
        for colour in sorted(seen.colours):
            # A name that holds a colour does not suit another one: "the yellow blueberries".
            if colour not in noun:
                yield f"the {colour} {noun}", Query(noun=noun.lower(), colour=colour)
                thing = rng.choice(_THINGS)
                yield f"the {colour} {thing}", Query(colour=colour)


def _spatial(rng: Random, objects: Sequence[SeenObject], _: Knowledge) -> _Candidates:
    for seen in objects:
        for noun, word in ((_named(rng, seen).one, None), ("", rng.choice(_THINGS))):
            said = word or noun
            for edge, words in _EDGES.items():
                yield f"the {said} {rng.choice(words)}", Query(noun=noun.lower(), edge=edge)
            for extreme, forms in _EXTREMES.items():
                query = Query(noun=noun.lower(), extreme=extreme)
                yield rng.choice(forms).format(x=said), query
            for other in objects:
                if other is not seen:
                    anchor = _named(rng, other).one
                    for side, phrases in _SIDES.items():
                        query = Query(
                            noun=noun.lower(), side=side, anchor=Query(noun=anchor.lower())
                        )
                        yield f"the {said} {rng.choice(phrases)} the {anchor}", query


def _reason(rng: Random, objects: Sequence[SeenObject], knowledge: Knowledge) -> _Candidates:
    for quality, says in knowledge.says.items():
        opening = f"the {rng.choice(_THINGS)}"
        yield f"{opening} {rng.choice(says)}", Query(quality=quality)
        for denial in knowledge.denies.get(quality, ())[:1]:
            if len(objects) > 1:
                yield f"{opening} {denial}", Query(quality=quality, without=True)


def _group(rng: Random, objects: Sequence[SeenObject], _: Knowledge) -> _Candidates:
    for seen in objects:
        noun = _named(rng, seen)
        if noun.many is not None:
            opening = rng.choice(("all the", "all of the", "all", "every one of the", "the"))
            yield f"{opening} {noun.many}", Query(noun=noun.one.lower())


_CANDIDATES: Mapping[
    ExpressionKind, Callable[[Random, Sequence[SeenObject], Knowledge], _Candidates]
] = {"refer": _refer, "spatial": _spatial, "reason": _reason, "group": _group}

KINDS: tuple[ExpressionKind, ...] = get_args(ExpressionKind)
