"""What the cells of a picture show, and where the language model has the names of it.

Notation: ``K`` cells of one or more pictures, ``D`` width of the language model, ``S`` side of a
picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.graph import PlacedThing
from llmbind_cli.data.scenes.pictures import ScenePicture
from llmbind_cli.data.scenes.questions import NUMBERS
from llmbind_cli.data.scenes.seen import sure_colours
from llmbind_cli.data.scenes.world import Thing
from llmbind_cli.nn.object_projector import FoundObjects, ObjectProjector

_COVERED = 0.25
"""Share of a cell that a thing must cover for the cell to be named after it."""

_SHARPNESS = 16.0
_HEAT = 6.0
"""A thing's longer side over the spread of its centre's heat."""


class _PerCell:
    """Tensors with one row for each cell."""

    def clone(self) -> Self:
        """Copy the tensors."""
        return type(self)(*(tensor.clone() for tensor in vars(self).values()))

    @classmethod
    def of(cls, many: Iterable[Self]) -> Self:
        """Put the cells of several pictures one after another."""
        columns = zip(*(vars(one).values() for one in many), strict=True)
        return cls(*map(torch.cat, columns))


@dataclass(frozen=True)
class Cells(_PerCell):
    """What the cells of a grid over a picture show.

    Attributes:
        things: Number of the thing, -1 for none, [K].
        colours: Its colour, -1 where it is not known, [K].
    """

    things: Tensor
    colours: Tensor


@dataclass(frozen=True)
class Centres(_PerCell):
    """Where the things of a grid over a picture have their middle.

    Attributes:
        heat: 1 at each middle, falling with the distance from it, [K].
        here: Whether a middle lies in the cell, bool [K].
        offsets: Where in the cell, x and y in [0, 1], [K, 2].
        things: Number of the thing whose middle it is, -1 for none, [K].
        colours: Its colour, -1 where it is not known, [K].
    """

    heat: Tensor
    here: Tensor
    offsets: Tensor
    things: Tensor
    colours: Tensor


class Names:
    """Where the language model's input space holds the names of things and colours.

    Args:
        embedding: The model's input embeddings.
        tokenizer: Its tokenizer.
        things: The things.
    """

    def __init__(self, embedding: nn.Module, tokenizer: Any, things: Iterable[Thing]) -> None:
        known = list(things)
        self.number = {thing.name: number for number, thing in enumerate(known)}

        def rows(words: str) -> Tensor:
            ids = tokenizer(f" {words}", add_special_tokens=False).input_ids
            return embedding(torch.tensor(ids)).detach().float()

        def mean(words: str) -> Tensor:
            return rows(words).mean(0)

        self.things = torch.stack([mean(thing.noun.one) for thing in known])
        self.colours = torch.stack([mean(colour) for colour in NAMES])
        self._counts = torch.stack([mean(word) for word in NUMBERS[1:]])
        self._edges = torch.stack([mean(word) for word in ("left", "right", "top", "bottom")])
        self.centre = self.things.mean(0)
        self._spelled = [rows(thing.noun.one) for thing in known]

    def loss(self, projected: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """Compare projected cells with the names of what they show.

        Args:
            projected: [K, D].
            cells: What they show.

        Returns:
            The loss, and the share of the cells whose nearest name is right.
        """
        away = projected - self.centre
        total = projected.new_zeros(())
        right = projected.new_zeros(())
        for table, wanted in (
            (self.things, cells.things),
            (self.colours, cells.colours),
        ):
            chosen = wanted >= 0
            if not chosen.any():
                continue
            targets = functional.normalize(table - self.centre, dim=1)
            scores = _SHARPNESS * functional.normalize(away[chosen], dim=1) @ targets.T
            total = total + functional.cross_entropy(scores, wanted[chosen])
            if table is self.things:
                right = (scores.argmax(1) == wanted[chosen]).float().mean()
        return total, right.detach()

    @torch.no_grad()
    def fill(self, projector: ObjectProjector) -> list[nn.Parameter]:
        """Write the names into a projector's tables; return its other parameters.

        Raises:
            ValueError: It lists nothing, or knows other numbers of names or colours.
        """
        if not isinstance(projector, ObjectProjector):
            raise ValueError("the recipe must have a table [sight.object_tokens]")
        most, tables = projector.most, projector.tables()
        words = {
            "spellings": self._spellings(projector.pieces),
            "colour_words": self.colours,
            "count_words": self._counts[:most],
            "edge_words": self._edges,
        }
        if any(len(table) != len(words[name]) for name, table in tables.items()):
            raise ValueError(
                f"object_tokens must have names = {len(self.things)}, colours = "
                f"{len(self.colours)} and most ≤ {len(self._counts)}"
            )
        for name, table in tables.items():
            table.copy_(words[name])
        filled = {id(table) for table in tables.values()}
        return [parameter for parameter in projector.parameters() if id(parameter) not in filled]

    def found(self, picture: Any, most: int) -> FoundObjects:
        """Return what a projector that errs nowhere finds in a picture; in a photo, nothing.

        Args:
            picture: A scene, or a photo.
            most: Things found at most.
        """
        placed = picture.arrangement.things if isinstance(picture, ScenePicture) else ()
        placed = [one for one in placed if one.thing.name in self.number][:most]
        names = torch.zeros(1, most, len(self.things))
        colours = torch.zeros(1, most, len(self.colours))
        places = torch.zeros(1, most, 2)
        for row, one in enumerate(placed):
            names[0, row, self.number[one.thing.name]] = 1
            # Of one that has several colours, the largest is told.
            colour = one.colour or next(iter(one.thing.colours), None)
            if colour is not None:
                colours[0, row, NAMES.index(colour)] = 1
            places[0, row] = torch.tensor(one.box.centre)
        return FoundObjects(torch.arange(most)[None] < len(placed), places, names, colours)

    def _spellings(self, pieces: int) -> Tensor:
        """Return the first tokens of each name at the end of so many rows, [names, pieces, D]."""
        table = self.things.new_zeros(len(self._spelled), pieces, self.things.shape[1])
        for name, rows in zip(table, self._spelled, strict=True):
            first = rows[:pieces]
            name[pieces - len(first) :] = first
        return table

    def cells(self, sample: Sample, grid: Sequence[int]) -> Cells:
        """Tell what the cells of a grid over a scene show.

        Args:
            sample: Its first picture is a scene.
            grid: Rows and columns.
        """
        picture: Any = sample.pictures[0]
        shown = torch.from_numpy(picture.renderer.drawn(picture)[1]).float()  # [things, S, S]
        cover = functional.interpolate(shown[:, None], tuple(grid), mode="area")[:, 0].flatten(1)
        most, which = cover.max(0)
        numbers, colours = self._told(picture.arrangement.things)
        seen = most >= _COVERED
        return Cells(
            things=torch.where(seen, numbers[which], -1),
            colours=torch.where(seen, colours[which], -1),
        )

    def centres(self, sample: Sample, side: int) -> Centres:
        """Tell where the things of a scene have their middle.

        Args:
            sample: Its first picture is a scene.
            side: Rows, and columns, of the grid.
        """
        picture: Any = sample.pictures[0]
        placed = picture.arrangement.things
        boxes = [one.box for one in placed]
        numbers, colours = self._told(placed)
        middles = torch.tensor([box.centre for box in boxes]) * side  # [things, 2]
        spreads = torch.tensor([max(box.width, box.height) for box in boxes]) * side / _HEAT
        along = torch.arange(side) + 0.5
        cells = torch.stack([along.repeat(side), along.repeat_interleave(side)], dim=1)  # [K, 2]
        away = (cells[:, None] - middles).square().sum(2)  # [K, things]
        columns, rows = middles.long().clamp(max=side - 1).unbind(1)
        holding = rows * side + columns
        offsets = torch.zeros(side * side, 2)
        offsets[holding] = middles - torch.stack([columns, rows], dim=1)
        here = torch.zeros(side * side, dtype=torch.bool)
        here[holding] = True
        things, hues = torch.full((2, side * side), -1)
        things[holding], hues[holding] = numbers, colours
        heat = (-away / (2 * spreads.square())).exp().amax(1)
        return Centres(heat, here, offsets, things, hues)

    def _told(self, placed: Sequence[PlacedThing]) -> tuple[Tensor, Tensor]:
        """Return numbers and colours of things, -1 for what is not known, each [things]."""
        numbers = [self.number.get(one.thing.name, -1) for one in placed]
        return torch.tensor(numbers), torch.tensor([_colour_of(one) for one in placed])


def _colour_of(placed: PlacedThing) -> int:
    """Return the number of a thing's colour, -1 where it has none in particular."""
    sure = sure_colours(placed)
    return NAMES.index(next(iter(sure))) if len(sure) == 1 else -1
