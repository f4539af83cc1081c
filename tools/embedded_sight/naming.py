"""Teach the projector to name what the vision tower sees, before the language model reads it.

Its visual words are the names of the things and of the colours: their rows in its table are the
mean input embeddings of the names, and those of "nothing" and of "no colour" are 0. So a cell that
shows a red apple becomes what the language model reads as those words, from the first step on. What
is learned here is which words a cell is.

Notation: ``K`` cells of one or more pictures, ``W`` width of what the projector reads, ``D`` width
of the language model, ``S`` side of a picture.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from resumable.optimizers import Optimizers
from resumable.state import load_state, save_state
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.looking import Looking
from llmbind_cli.console import console
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.seen import sure_colours
from llmbind_cli.data.scenes.world import Thing
from llmbind_cli.nn.projector import Projector

LOG_EVERY, SAVE_EVERY = 20, 100
_COVERED = 0.25
"""Share of a cell that a thing must cover for the cell to be named after it."""

_SHARPNESS = 16.0
_WARM_UP, _DECAY = 50, 0.7
"""Steps until the learning rate is reached; share of the steps over which it falls to 0."""


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


@dataclass(frozen=True)
class Described:
    """A picture as the projector reads it.

    Attributes:
        features: bfloat16 [K, W].
        cells: What they show.
    """

    features: Tensor
    cells: Cells

    def clone(self) -> Described:
        """Copy the tensors."""
        return Described(self.features.clone(), self.cells.clone())


class Describing(Looking[Described]):
    """Looks at scenes with the vision tower.

    Args:
        names: Of things.
        settings: Those of :class:`Looking`.
    """

    def __init__(self, *, names: Names, **settings: Any) -> None:
        super().__init__(**settings)
        self._names = names

    @torch.no_grad()
    def look(self, numbers: range) -> list[Described]:
        """Draw scenes and look at them."""
        samples, pictures = self.drawn(numbers)
        with torch.autocast("cpu", torch.bfloat16):
            features = self.sight.refined(self.sight.tower_features(pictures))
        side = math.isqrt(features.shape[1])
        return [
            Described(seen.bfloat16(), self._names.cells(sample, (side, side)))
            for seen, sample in zip(features, samples, strict=True)
        ]


def teach_projector(
    projector: Projector, names: Names, looking: Describing, held_out: Sequence[Described], *,
    steps: int, state: Path, fresh: int = 8, again: int = 56, lr: float = 4e-3, workers: int = 0,
) -> None:  # fmt: skip
    """Train. Stopped, it goes on where it saved last.

    Args:
        projector: Its first layer is trained in place, its table is filled.
        names: Of things.
        looking: Gives pictures.
        held_out: Pictures to score on.
        steps: Steps in all.
        state: File of the training's state.
        fresh: New pictures a step.
        again: Pictures seen before, a step.
        lr: Highest learning rate.
        workers: Processes that look at pictures ahead.

    Raises:
        ValueError: The projector has other visual words.
    """
    if projector.words != names.vocabularies or projector.linear_2 is None:
        raise ValueError(f"projector_words must be {list(names.vocabularies)}")
    with torch.no_grad():
        projector.linear_2.weight.copy_(names.table().T)
    parts: dict[str, Any] = {
        "projector": projector,
        "optimizers": Optimizers(projector.linear_1.parameters()),
    }
    first = load_state(state, **parts)
    losses: list[Tensor] = []
    clock = time.monotonic()
    batches = looking.batches(range(first, steps), fresh, again, workers=workers)
    for step, looked in enumerate(batches, first):
        loss, named, told = _scores(projector, looked)
        loss.backward()
        nn.utils.clip_grad_norm_(projector.linear_1.parameters(), 1.0)
        rise, fall = (step + 1) / _WARM_UP, (steps - step) / (_DECAY * steps)
        parts["optimizers"].step(lr * min(1.0, rise, fall))
        losses.append(torch.stack([loss, named, told]).detach())
        if (step + 1) % LOG_EVERY == 0:
            mean, n, t = torch.stack(losses).mean(0).tolist()
            seconds = (time.monotonic() - clock) / len(losses)
            console.log(
                f"step {step + 1}/{steps}: loss {mean:.3f}, things named {n:.1%}, something or "
                f"nothing told {t:.1%}, {seconds:.2f} s a step"
            )
            losses, clock = [], time.monotonic()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(state, step + 1, **parts)
            with torch.no_grad():
                loss, named, told = _scores(projector, held_out)
            console.log(
                f"held out: loss {loss:.3f}, things named {named:.1%}, something or nothing told "
                f"{told:.1%}"
            )
            clock = time.monotonic()


def _scores(projector: Projector, looked: Sequence[Described]) -> tuple[Tensor, Tensor, Tensor]:
    """Score the words of cells.

    Returns:
        The loss; of the cells that show a thing, the share that is named rightly; of all cells,
        the share that rightly says whether they show any.
    """
    features = torch.cat([one.features for one in looked]).float()
    shown = Cells.of(one.cells for one in looked)
    things, colours = projector.linear_1(features).split(projector.words, dim=-1)
    nothing, no_colour = projector.words[0] - 1, projector.words[1] - 1
    seen = shown.things >= 0
    wanted = torch.where(seen, shown.things, nothing)
    # A thing whose colour is not sure teaches none; where there is no thing there is no colour.
    hues = torch.where(seen, shown.colours, no_colour)
    loss = functional.cross_entropy(things, wanted)
    loss = loss + functional.cross_entropy(colours, hues, ignore_index=-1)
    best = things.argmax(1)
    named = (best[seen] == wanted[seen]).float().mean()
    told = ((best < nothing) == seen).float().mean()
    return loss, named.detach(), told.detach()
