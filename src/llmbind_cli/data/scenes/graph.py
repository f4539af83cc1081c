"""The scene graph: what stands where in a picture.

A scene is the one source from which its picture, its masks and its captions follow. Coordinates
run from 0 to 1 over a square picture, x to the right, y downward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmbind_cli.data.scenes.colours import COLOURS
from llmbind_cli.data.scenes.world import Thing

Size = Literal["small", "normal", "large"]
Side = Literal["left of", "right of", "above", "below"]
BackgroundKind = Literal[
    "white", "plain", "grass", "sea", "sky", "night", "sand", "snow", "room", "sunset", "street"
]

MOST_OF_A_KIND = 3
_APART = 0.6
"""Share of their mean sides that two things' centres are apart, at least, to stand side by side."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle inside the picture.

    Attributes:
        left: x of its left side, 0 to 1.
        top: y of its upper side, 0 to 1.
        right: x of its right side, > ``left``.
        bottom: y of its lower side, > ``top``.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise ValueError(f"a box must lie in the picture, got {self}")

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle, x and y."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def width(self) -> float:
        """Its extent in x."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Its extent in y."""
        return self.bottom - self.top


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedThing:
    """A thing, or a few of one thing, in the picture.

    Attributes:
        thing: What it is.
        box: Where it is; several of a kind share it.
        colour: Name of its colour; ``None`` leaves its own.
        size: How large it is drawn compared with what one expects.
        count: How many, 1 to 3.
        flip: Whether it is mirrored left to right.
        look: Index of the look that is drawn.
    """

    thing: Thing
    box: Box
    colour: str | None = None
    size: Size = "normal"
    count: int = 1
    flip: bool = False
    look: int = 0

    def __post_init__(self) -> None:
        if self.colour is not None and self.colour not in COLOURS:
            raise ValueError(f"colour must be one of {list(COLOURS)}, got {self.colour!r}")
        if not 1 <= self.count <= MOST_OF_A_KIND:
            raise ValueError(f"count must be 1 to {MOST_OF_A_KIND}, got {self.count}")
        if not 0 <= self.look < len(self.thing.codes):
            raise ValueError(f"look must be < {len(self.thing.codes)}, got {self.look}")

    def boxes(self) -> tuple[Box, ...]:
        """Return one square box for each of the things, in drawing order."""
        box, count = self.box, self.count
        if count == 1:
            side = min(box.width, box.height)
            return (_square(*box.centre, side),)
        across = box.width >= box.height
        if count == MOST_OF_A_KIND and 0.75 < box.width / box.height < 1.34:
            side = min(box.width, box.height) / 2
            x, y = box.centre
            spots = ((x, y - side / 2), (x - side / 2, y + side / 2), (x + side / 2, y + side / 2))
            return tuple(_square(*spot, side) for spot in spots)
        side = min(max(box.width, box.height) / count, box.width, box.height)
        start = box.left if across else box.top
        step = (box.width if across else box.height) / count
        along = [start + step * (index + 0.5) for index in range(count)]
        x, y = box.centre
        return tuple(_square(a, y, side) if across else _square(x, a, side) for a in along)


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the things.

    Attributes:
        kind: ``white``, ``plain`` (one colour) or a simple place.
        colour: Name of the colour where ``kind`` is ``plain``, else ``None``.
    """

    kind: BackgroundKind = "white"
    colour: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "plain") != (self.colour is not None):
            raise ValueError(f"a plain background, and no other, has a colour; got {self}")


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole picture.

    Attributes:
        things: One to three placed things, drawn in this order.
        background: What lies behind them.
        shade: Number from 0 to 1 that varies how the background is drawn.
    """

    things: tuple[PlacedThing, ...]
    background: Background = Background()
    shade: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= len(self.things) <= 3:
            raise ValueError(f"a scene has 1 to 3 kinds of things, got {len(self.things)}")

    def instances(self) -> tuple[tuple[int, Box], ...]:
        """Return every single thing in drawing order: index into ``things``, and its square."""
        return tuple(
            (index, box) for index, placed in enumerate(self.things) for box in placed.boxes()
        )

    def relation(self, first: int, second: int) -> Side | None:
        """Tell where one thing stands, seen from another.

        Args:
            first: Index of the thing whose place is told.
            second: Index of the thing it is compared with.

        Returns:
            The side on which they are clearly apart; ``None`` where there is none.
        """
        a, b = self.things[first].box, self.things[second].box
        across = (a.centre[0] - b.centre[0]) / ((a.width + b.width) / 2)
        down = (a.centre[1] - b.centre[1]) / ((a.height + b.height) / 2)
        if max(abs(across), abs(down)) < _APART or abs(abs(across) - abs(down)) < 0.2:
            return None
        if abs(across) > abs(down):
            return "left of" if across < 0 else "right of"
        return "above" if down < 0 else "below"


def _square(x: float, y: float, side: float) -> Box:
    """Return a square around a point, moved into the picture where rounding pushes it out."""
    left = min(max(x - side / 2, 0.0), 1 - side)
    top = min(max(y - side / 2, 0.0), 1 - side)
    return Box(left, top, min(left + side, 1.0), min(top + side, 1.0))
