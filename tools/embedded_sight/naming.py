"""Teach the projector to name what the vision tower sees, before the language model reads it.

What the projector makes of a part of a picture is drawn towards the mean input embedding of the
name of the thing that covers it, and of its colour, among all names; parts that show no thing
become 0, which says nothing. The language model then reads a picture as words, which it can from
the first step on.

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

    def length_loss(self, projected: Tensor, cells: Cells) -> Tensor:
        """Tell how far projected cells [K, D] are from the length that they should have.

        Those that show a thing should be as far from the names' centre as names are; those that
        show none should say nothing, and be 0.
        """
        usual = (self.things - self.centre).square().mean().sqrt()
        shown = cells.things >= 0
        lengths = (projected - self.centre).square().mean(1).clamp(min=1e-12).sqrt() / usual
        empty = projected.square().mean(1) / usual**2
        return torch.where(shown, (lengths - 1) ** 2, empty).mean()

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
    steps: int, state: Path, fresh: int = 8, again: int = 56, lr: float = 1e-3, workers: int = 0,
) -> None:  # fmt: skip
    """Train. Stopped, it goes on where it saved last.

    Args:
        projector: Trained in place.
        names: Of things.
        looking: Gives pictures.
        held_out: Pictures to score on.
        steps: Steps in all.
        state: File of the training's state.
        fresh: New pictures a step.
        again: Pictures seen before, a step.
        lr: Highest learning rate.
        workers: Processes that look at pictures ahead.
    """
    parts: dict[str, Any] = {
        "projector": projector,
        "optimizers": Optimizers(projector.parameters()),
    }
    first = load_state(state, **parts)
    losses: list[Tensor] = []
    clock = time.monotonic()
    batches = looking.batches(range(first, steps), fresh, again, workers=workers)
    for step, looked in enumerate(batches, first):
        naming, right, length = _scores(projector, names, looked)
        (naming + length).backward()
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        rise, fall = (step + 1) / _WARM_UP, (steps - step) / (_DECAY * steps)
        parts["optimizers"].step(lr * min(1.0, rise, fall))
        losses.append(torch.stack([naming, length, right]).detach())
        if (step + 1) % LOG_EVERY == 0:
            n, e, r = torch.stack(losses).mean(0).tolist()
            seconds = (time.monotonic() - clock) / len(losses)
            console.log(
                f"step {step + 1}/{steps}: naming {n:.3f}, length {e:.3f}, cells named {r:.1%}, "
                f"{seconds:.2f} s a step"
            )
            losses, clock = [], time.monotonic()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(state, step + 1, **parts)
            with torch.no_grad():
                naming, right, length = _scores(projector, names, held_out)
            console.log(
                f"held out: naming {naming:.3f}, length {length:.3f}, cells named {right:.1%}"
            )
            clock = time.monotonic()


def _scores(
    projector: Projector, names: Names, looked: Sequence[Described]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of names, the share of the right ones, and the loss of lengths."""
    features = torch.cat([one.features for one in looked])
    shown = Cells.of(one.cells for one in looked)
    with torch.autocast("cpu", torch.bfloat16):
        projected = projector.cells(features.float()).float()
    naming, right = names.loss(projected, shown)
    return naming, right, names.length_loss(projected, shown)
