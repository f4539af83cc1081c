"""Random scenes to be looked at: several things, often alike, on all kinds of grounds.

Each follows from a seed and its number. Three rows of them share nothing: ``train``;
``held_out_scenes``, in which stand pairs of things that training never sees together; and
``held_out_things``, in which stand things that training never sees at all. What is held out follows
from a hash of the names, as in :mod:`llmbind_cli.data.scenes.sampling`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.graph import Background, BackgroundKind, Box, PlacedThing
from llmbind_cli.data.scenes.grounds import (
    TEXTURES,
    DrawnGround,
    Ground,
    PhotoGround,
    TexturedGround,
    draw_photo_ground,
    is_held_out_photo,
)
from llmbind_cli.data.scenes.sampling import is_held_out_pair, may_be_turned
from llmbind_cli.data.scenes.world import Thing, World

Split = Literal["train", "held_out_scenes", "held_out_things"]
GroundKind = Literal["plain", "textured", "photo"]
Plan = Literal["different", "twins", "many", "single"]

SPLITS: tuple[Split, ...] = get_args(Split)
GROUNDS: Mapping[GroundKind, float] = {"plain": 0.4, "textured": 0.25, "photo": 0.35}
"""Shares of the grounds; that of photos goes to the others where there are none."""

_PLANS: Mapping[Plan, float] = {"different": 0.45, "twins": 0.3, "many": 0.2, "single": 0.05}
_HELD_OUT = 0.1
_PAINTED = 0.4
_FLIPPED = 0.3
_PLACES: tuple[BackgroundKind, ...] = tuple(
    kind for kind in get_args(BackgroundKind) if kind not in ("white", "plain")
)
_SIDES = {
    1: (0.3, 0.7),
    2: (0.22, 0.5),
    3: (0.18, 0.44),
    4: (0.17, 0.38),
    5: (0.15, 0.34),
    6: (0.14, 0.3),
}
"""How many things → the range of their sides, as shares of the picture's."""

_TRIES = 200
_BETWEEN = 0.01


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A picture of several things that do not touch.

    Attributes:
        things: Single things with their squares, in drawing order; 1 to 6.
        ground: What lies behind them.
    """

    things: tuple[PlacedThing, ...]
    ground: Ground

    def digest(self) -> str:
        """Return a hash of everything that shows."""
        text = json.dumps([[_told(placed) for placed in self.things], repr(self.ground)])
        return hashlib.sha256(text.encode()).hexdigest()


def _told(placed: PlacedThing) -> list[Any]:
    box = placed.box
    place = [box.left, box.top, box.right, box.bottom]
    return [placed.thing.name, placed.colour, placed.look, placed.flip, place]


def is_held_out_thing(thing: Thing) -> bool:
    """Tell whether training never sees this thing; it follows from its name alone."""
    digest = hashlib.blake2b(f"seen\0{thing.name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < _HELD_OUT


class ArrangementSampler:
    """A row of scenes, each of which can be had by its number.

    Attributes:
        known: Things that training may see.
        unknown: Things that it never sees.

    Args:
        world: The things.
        seed: Seed of the row.
        split: Which of the three rows.
        photos: Photos that may stand behind the things; those held out stand there in the held-out
            rows, and the others in training.
        grounds: Shares of the grounds.

    Raises:
        ValueError: No ground has a share, or photos have one alone and there is none.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        split: Split = "train",
        photos: Sequence[Path] = (),
        grounds: Mapping[GroundKind, float] = GROUNDS,
    ) -> None:
        self._seed, self._split = seed, split
        things = [thing for thing in world if not thing.alone]
        self.known = [thing for thing in things if not is_held_out_thing(thing)]
        self.unknown = [thing for thing in things if is_held_out_thing(thing)]
        wanted = split != "train"
        self._photos = tuple(path for path in photos if is_held_out_photo(path) == wanted)
        shares = {kind: share for kind, share in grounds.items() if kind != "photo" or self._photos}
        if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise ValueError(
                f"grounds must have shares ≥ 0 and one > 0 that can be drawn, got {dict(grounds)} "
                f"with {len(self._photos)} photos for {split}"
            )
        self._grounds = shares

    def draw(self, number: int, attempt: int = 0) -> Arrangement:
        """Return the scene of a number, ≥ 0; further attempts give others in its place."""
        rng = Random(f"arrangement/{self._split}/{self._seed}/{number}/{attempt}")
        things = self._draw_things(rng)
        boxes = _draw_boxes(rng, len(things))
        placed = tuple(
            PlacedThing(
                thing=thing,
                box=box,
                colour=colour,
                flip=may_be_turned(thing) and rng.random() < _FLIPPED,
                look=rng.randrange(len(thing.codes)),
            )
            for (thing, colour), box in zip(things, boxes, strict=True)
        )
        return Arrangement(placed, self._draw_ground(rng, placed))

    def _draw_things(self, rng: Random) -> list[tuple[Thing, str | None]]:
        """Draw things and colours on this row's side of the hold-out."""
        while True:
            chosen = self._draw_kinds(rng)
            kinds = list(dict.fromkeys(thing for thing, _ in chosen))
            pairs = itertools.combinations(kinds, 2)
            held_out = [is_held_out_pair(first, second) for first, second in pairs]
            if (
                any(held_out) == (self._split == "held_out_scenes")
                or self._split == "held_out_things"
            ):
                rng.shuffle(chosen)
                return chosen

    def _draw_kinds(self, rng: Random) -> list[tuple[Thing, str | None]]:
        plan: Plan = rng.choices(list(_PLANS), list(_PLANS.values()))[0]
        if self._split == "held_out_scenes" and plan == "single":
            plan = "different"
        others = {"different": (1, 4), "twins": (0, 2), "many": (0, 2), "single": (0, 0)}[plan]
        count = rng.randint(*others)
        first = rng.choice(self.unknown if self._split == "held_out_things" else self.known)
        drawn = [(first, _paint(rng, first))]
        if plan == "many":
            drawn *= rng.randint(2, 4)
        elif plan == "twins":
            for _ in range(rng.choice((1, 1, 2))):
                drawn.append((first, _paint(rng, first)))
        pool = self.known
        drawn += [(thing, _paint(rng, thing)) for thing in rng.sample(pool, count)]
        return drawn

    def _draw_ground(self, rng: Random, placed: tuple[PlacedThing, ...]) -> Ground:
        kind = rng.choices(list(self._grounds), list(self._grounds.values()))[0]
        if kind == "photo":
            return draw_photo_ground(rng, self._photos)
        if kind == "textured":
            return TexturedGround(rng.choice(TEXTURES), rng.randrange(2**32))
        shade = rng.random()
        shown = {colour for thing in placed for colour in (thing.colour, *thing.thing.colours)}
        if rng.random() < 0.5:
            tones = [name for name in NAMES if name not in shown and name != "white"]
            return DrawnGround(Background("plain", rng.choice(tones or ["grey"])), shade)
        places: tuple[BackgroundKind, ...] = _PLACES if "white" in shown else ("white", *_PLACES)
        return DrawnGround(Background(rng.choice(places)), shade)


def photo_of(arrangement: Arrangement) -> Path | None:
    """Return the photo behind a scene's things, where there is one."""
    return arrangement.ground.path if isinstance(arrangement.ground, PhotoGround) else None


def _paint(rng: Random, thing: Thing) -> str | None:
    return rng.choice(NAMES) if thing.recolour and rng.random() < _PAINTED else None


def _draw_boxes(rng: Random, count: int) -> list[Box]:
    """Draw squares that do not touch; smaller ones where there is no more room."""
    low, high = _SIDES[min(count, max(_SIDES))]
    while True:
        boxes: list[Box] = []
        for _ in range(_TRIES):
            side = rng.uniform(low, high)
            left, top = rng.uniform(0, 1 - side), rng.uniform(0, 1 - side)
            box = Box(left, top, left + side, top + side)
            if all(_are_apart(box, other) for other in boxes):
                boxes.append(box)
                if len(boxes) == count:
                    return boxes
        high = max(low, 0.9 * high)
        low *= 0.95


def _are_apart(box: Box, other: Box) -> bool:
    return (
        box.right + _BETWEEN < other.left
        or other.right + _BETWEEN < box.left
        or box.bottom + _BETWEEN < other.top
        or other.bottom + _BETWEEN < box.top
    )
