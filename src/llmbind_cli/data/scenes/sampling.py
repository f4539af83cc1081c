"""Random scenes, the same for the same seed and number on every machine.

About a tenth of all pairs of a thing and a colour, and of all pairs of things, is held out:
training never draws them, so that a picture of one shows whether the generator composes or only
remembers.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from random import Random
from types import MappingProxyType
from typing import Literal, get_args

from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.graph import Background, BackgroundKind, Box, PlacedThing, Scene, Size
from llmbind_cli.data.scenes.world import Thing, World

Kind = Literal["single", "coloured", "sized", "counted", "pair", "triple", "placed", "background"]

KINDS: tuple[Kind, ...] = get_args(Kind)

DEFAULT_MIX: Mapping[Kind, float] = MappingProxyType(
    {
        "single": 0.26,
        "coloured": 0.2,
        "sized": 0.06,
        "counted": 0.09,
        "pair": 0.22,
        "triple": 0.05,
        "placed": 0.04,
        "background": 0.08,
    }
)
"""Share of each kind of scene in training."""

_HELD_OUT = 0.1
_UNTURNED = frozenset({"book", "shape", "music", "electronics", "view", "tool"})
"""Categories in which many drawings hold letters or have one right side."""

_PLACES: tuple[BackgroundKind, ...] = (
    "grass", "sea", "sky", "night", "sand", "snow", "room", "sunset", "street"
)  # fmt: skip
_PLAIN = tuple(name for name in NAMES if name != "white")
_SCALE: Mapping[Size, float] = MappingProxyType({"small": 0.6, "normal": 1.0, "large": 1.25})
PALE = frozenset({"white"})
"""Colours that a white background hides."""

_PLAIN_WHITE = Background("plain", "white")
BEHIND_PALE = Background("plain", "blue")
"""What stands behind pale things in steady scenes where nothing is said of it."""


def is_held_out_colour(thing: Thing, colour: str) -> bool:
    """Tell whether training never sees this thing in this colour.

    A thing's own colours are never held out.
    """
    return colour not in thing.colours and _share("colour", thing.name, colour) < _HELD_OUT


def is_held_out_pair(first: Thing, second: Thing) -> bool:
    """Tell whether training never sees these two things in one picture, in either order."""
    return _share("pair", *sorted((first.name, second.name))) < _HELD_OUT


def _share(*words: str) -> float:
    """Return a number from 0 to 1 that follows from the words alone."""
    digest = hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class SceneSampler:
    """An endless row of scenes, each of which can be had by its number.

    Args:
        world: The things.
        seed: Seed of the whole row.
        mix: Relative share of each kind; kinds left out do not occur.
        held_out: False gives scenes that training may see. True gives only scenes that it may
            not: every colour, or every pair of things, is held out; ``mix`` may then hold the
            kinds ``coloured`` and ``pair`` alone.
        steady: Leave as little to chance as can be: things stand at three sizes only (half, three
            quarters and all of the picture) and at few places, unturned, in their first look. With
            captions that leave nothing out, the picture then follows from the words.

    Raises:
        ValueError: The mix is empty, has a negative share or a kind that ``held_out`` excludes.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        mix: Mapping[Kind, float] = DEFAULT_MIX,
        held_out: bool = False,
        steady: bool = False,
    ) -> None:
        if not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
            raise ValueError(f"mix must have shares ≥ 0 and one > 0, got {dict(mix)}")
        if held_out and not set(mix) <= {"coloured", "pair"}:
            raise ValueError(f"held-out scenes are of kind coloured or pair, got {sorted(mix)}")
        self._steady = steady
        self._near = functools.partial(_near, steady=steady)
        self._seed = seed
        self._held_out = held_out
        self._kinds, self._weights = list(mix), list(mix.values())
        self._all = world.things
        self._paintable = tuple(thing for thing in world if thing.recolour)
        self._companions = tuple(thing for thing in world if not thing.alone)
        self._countable = tuple(thing for thing in world if thing.countable)
        self._makers: Mapping[Kind, Callable[[Random], Scene]] = {
            "single": self._single,
            "coloured": self._coloured,
            "sized": self._sized,
            "counted": self._counted,
            "pair": lambda rng: self._together(rng, 2),
            "triple": lambda rng: self._together(rng, 3),
            "placed": self._placed,
            "background": self._before_something,
        }

    def __iter__(self) -> Iterator[Scene]:
        """Scenes 0, 1, 2, … without end."""
        number = 0
        while True:
            yield self[number]
            number += 1

    def __getitem__(self, number: int) -> Scene:
        """The scene of a number, ≥ 0."""
        rng = Random(f"scene/{self._seed}/{number}/{self._held_out}")
        kind = rng.choices(self._kinds, self._weights)[0]
        return self._makers[kind](rng)

    def _single(self, rng: Random) -> Scene:
        return self._one(rng, rng.choice(self._all))

    def _sized(self, rng: Random) -> Scene:
        size: Size = rng.choice(("small", "large"))
        thing = rng.choice(self._companions)
        return self._one(rng, thing, size=size, colour=self._maybe_colour(rng, thing, 0.25))

    def _before_something(self, rng: Random) -> Scene:
        thing = rng.choice(self._companions)
        colour = self._maybe_colour(rng, thing, 0.2)
        return self._one(rng, thing, colour=colour, background=_any_background(rng))

    def _coloured(self, rng: Random) -> Scene:
        """Draw a thing in a colour on the wanted side of the hold-out; a few have none held out."""
        while True:
            thing = rng.choice(self._paintable)
            if colours := _colours(thing, held_out=self._held_out):
                return self._one(rng, thing, colour=rng.choice(colours))

    def _maybe_colour(self, rng: Random, thing: Thing, chance: float) -> str | None:
        """Draw a colour for a thing, now and then, where the scene is not about the colour."""
        if self._held_out or not thing.recolour or rng.random() >= chance:
            return None
        return rng.choice(_colours(thing, held_out=False))

    def _one(
        self,
        rng: Random,
        thing: Thing,
        *,
        colour: str | None = None,
        size: Size = "normal",
        background: Background | None = None,
    ) -> Scene:
        low, high = {"small": (0.26, 0.4), "normal": (0.7, 0.96), "large": (0.97, 1.0)}[size]
        if self._steady and size == "normal":
            low = high = 0.75
        side = rng.uniform(low, high)
        if thing.alone:
            side = rng.uniform(0.9, 1.0)
        box = self._near(rng, 0.5, 0.5, side, 0.25 if size == "small" else 0.08)
        placed = self._placed_thing(rng, thing, box, colour=colour, size=size)
        return self._scene(rng, (placed,), background)

    def _counted(self, rng: Random) -> Scene:
        thing = rng.choice(self._countable)
        count = rng.choice((2, 2, 3))
        ratio = 0.5 if count == 2 else rng.choice((1.0, 0.4))
        side = rng.uniform(0.85, 1.0)
        if self._steady:  # only so are two and three of a kind half as large as the picture
            ratio, side = (0.5 if count == 2 else 1.0), 1.0
        box = self._near(rng, 0.5, 0.5, side, 0.05, ratio=ratio)
        colour = self._maybe_colour(rng, thing, 0.3)
        placed = self._placed_thing(rng, thing, box, colour=colour, count=count)
        return self._scene(rng, (placed,), None)

    def _placed(self, rng: Random) -> Scene:
        thing = rng.choice(self._companions)
        x, y = rng.choice(_SPOTS)
        box = self._near(rng, x, y, rng.uniform(0.4, 0.52), 0.03)
        return self._scene(rng, (self._placed_thing(rng, thing, box),), None)

    def _together(self, rng: Random, count: int) -> Scene:
        things = self._companionship(rng, count)
        boxes = _layout(rng, count, row=not self._steady)
        sizes: list[Size] = [
            rng.choice(("small", "large")) if not self._steady and rng.random() < 0.12 else "normal"
            for _ in things
        ]
        placed = []
        for thing, size, (x, y, side) in zip(things, sizes, boxes, strict=True):
            extent = min(side * _SCALE[size] * rng.uniform(0.88, 1.0), 0.6)
            several = 1
            if thing.countable and count == 2 and not self._steady and rng.random() < 0.08:
                several = 2
            box = self._near(rng, x, y, extent, 0.02)
            colour = self._maybe_colour(rng, thing, 0.3)
            placed.append(
                self._placed_thing(rng, thing, box, colour=colour, size=size, count=several)
            )
        background = _any_background(rng) if rng.random() < 0.2 else None
        return self._scene(rng, tuple(placed), background)

    def _companionship(self, rng: Random, count: int) -> list[Thing]:
        """Draw different things, each pair of which is on the wanted side of the hold-out."""
        while True:
            things = rng.sample(self._companions, count)
            pairs = [(a, b) for i, a in enumerate(things) for b in things[i + 1 :]]
            if all(is_held_out_pair(a, b) == self._held_out for a, b in pairs):
                return things

    def _placed_thing(
        self,
        rng: Random,
        thing: Thing,
        box: Box,
        *,
        colour: str | None = None,
        size: Size = "normal",
        count: int = 1,
    ) -> PlacedThing:
        flip = may_be_turned(thing) and rng.random() < 0.3
        look = rng.randrange(len(thing.codes))
        if self._steady:
            flip, look = False, 0
        return PlacedThing(
            thing=thing, box=box, colour=colour, size=size, count=count, flip=flip, look=look
        )

    def _scene(
        self, rng: Random, placed: tuple[PlacedThing, ...], background: Background | None
    ) -> Scene:
        """Finish a scene; white things get a background that shows them."""
        shade = 0.5 if self._steady else rng.random()
        if placed[0].thing.alone:
            return Scene(placed, Background(), shade)
        pale = any(thing.colour in PALE for thing in placed)
        if background is None:
            background = Background()
            if pale:
                background = _any_background(rng)
                if self._steady and rng.random() < 0.6:
                    background = BEHIND_PALE
            elif rng.random() < 0.06:
                background = _PLAIN_WHITE if self._steady else _any_background(rng)
        same = background.colour is not None and any(
            background.colour in (thing.colour, *thing.thing.colours) for thing in placed
        )
        if same or (pale and background.kind == "snow"):
            background = Background("night") if pale else Background()
        return Scene(placed, background, shade)


def may_be_turned(thing: Thing) -> bool:
    """Tell whether a thing looks right mirrored left to right."""
    return thing.category not in _UNTURNED


def _colours(thing: Thing, *, held_out: bool) -> list[str]:
    """Return the colours of one side of the hold-out."""
    return [name for name in NAMES if is_held_out_colour(thing, name) == held_out]


_STEADY_STARTS = MappingProxyType({0.5: (0.0, 0.25, 0.5), 0.75: (0.125,), 1.0: (0.0,)})
"""Width → where a box of that width may start, in steady scenes."""

_SPOTS = tuple((x, y) for x in (0.26, 0.5, 0.74) for y in (0.26, 0.5, 0.74) if (x, y) != (0.5, 0.5))


def _layout(rng: Random, count: int, *, row: bool) -> list[tuple[float, float, float]]:
    """Draw where two or three things stand: x, y and side of each; ``row`` allows three abreast."""
    if count == 2:
        if rng.random() < 0.68:
            drop = rng.uniform(-0.06, 0.06)
            spots = [(0.26, 0.5 + drop, 0.48), (0.74, 0.5 - drop, 0.48)]
        else:
            shift = rng.uniform(-0.08, 0.08)
            spots = [(0.5 + shift, 0.26, 0.48), (0.5 - shift, 0.74, 0.48)]
    elif row and rng.random() < 0.6:
        spots = [(0.18, 0.5, 0.33), (0.5, 0.5, 0.33), (0.82, 0.5, 0.33)]
    else:
        spots = [(0.5, 0.26, 0.46), (0.26, 0.74, 0.46), (0.74, 0.74, 0.46)]
    rng.shuffle(spots)
    return spots


def _near(
    rng: Random,
    x: float,
    y: float,
    side: float,
    reach: float,
    *,
    ratio: float = 1.0,
    steady: bool = False,
) -> Box:
    """Return a box around a point, up to ``reach`` away from it and inside the picture.

    Args:
        rng: Source of chance.
        x: Wanted centre.
        y: Wanted centre.
        side: Its longer side.
        reach: Farthest shift in each direction.
        ratio: Shorter side by longer side; the longer one lies across.
        steady: Take the nearest of few sizes and places.
    """
    width, height = min(side, 1.0), min(side * ratio, 1.0)
    if steady:
        width, height = (_nearest(extent, (0.5, 0.75, 1.0)) for extent in (width, height))
    x = min(max(x + rng.uniform(-reach, reach), width / 2), 1 - width / 2)
    y = min(max(y + rng.uniform(-reach, reach), height / 2), 1 - height / 2)
    left, top = max(x - width / 2, 0.0), max(y - height / 2, 0.0)
    if steady:
        left = _nearest(left, _STEADY_STARTS[width])
        top = _nearest(top, _STEADY_STARTS[height])
    return Box(left, top, min(left + width, 1.0), min(top + height, 1.0))


def _nearest(value: float, choices: tuple[float, ...]) -> float:
    return min(choices, key=lambda choice: abs(choice - value))


def _any_background(rng: Random) -> Background:
    if rng.random() < 0.45:
        return Background("plain", rng.choice(_PLAIN))
    return Background(rng.choice(_PLACES))
