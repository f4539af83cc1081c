"""What the cells of a picture show, and where the language model has the names of it.

Notation: ``K`` cells of one or more pictures, ``D`` width of the language model, ``S`` side of a
picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.seen import sure_colours
from llmbind_cli.data.scenes.world import Thing

_COVERED = 0.25
"""Share of a cell that a thing must cover for the cell to be named after it."""

_SHARPNESS = 16.0


@dataclass(frozen=True)
class Cells:
    """What the cells of a grid over a picture show.

    Attributes:
        things: Number of the thing, -1 for none, [K].
        colours: Its colour, -1 where it is not known, [K].
    """

    things: Tensor
    colours: Tensor

    def clone(self) -> Cells:
        """Copy the tensors."""
        return Cells(self.things.clone(), self.colours.clone())

    @classmethod
    def of(cls, many: Iterable[Cells]) -> Cells:
        """Put the cells of several pictures one after another."""
        all_of_them = list(many)
        return cls(
            torch.cat([one.things for one in all_of_them]),
            torch.cat([one.colours for one in all_of_them]),
        )


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

        def mean(words: str) -> Tensor:
            ids = tokenizer(f" {words}", add_special_tokens=False).input_ids
            return embedding(torch.tensor(ids)).detach().float().mean(0)

        self.things = torch.stack([mean(thing.noun.one) for thing in known])
        self.colours = torch.stack([mean(colour) for colour in NAMES])
        self.centre = self.things.mean(0)

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

    @property
    def vocabularies(self) -> tuple[int, int]:
        """How many visual words there are for things, and for colours."""
        return len(self.things) + 1, len(self.colours) + 1

    def table(self) -> Tensor:
        """Return the rows of the visual words, [sum of the vocabularies, D]."""
        none = self.centre.new_zeros(1, len(self.centre))
        return torch.cat([self.things, none, self.colours - self.centre, none])

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
        placed = picture.arrangement.things
        numbers = torch.tensor([self.number.get(one.thing.name, -1) for one in placed])
        sure = [sure_colours(one) for one in placed]
        colours = torch.tensor([NAMES.index(next(iter(c))) if len(c) == 1 else -1 for c in sure])
        seen = most >= _COVERED
        return Cells(
            things=torch.where(seen, numbers[which], -1),
            colours=torch.where(seen, colours[which], -1),
        )
