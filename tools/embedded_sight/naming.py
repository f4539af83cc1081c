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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from resumable.optimizers import Optimizers
from resumable.precision import cpu_autocast
from resumable.state import load_state, save_state
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.looking import Looking
from embedded_sight.names import Cells, Names
from llmbind_cli.console import console
from llmbind_cli.nn.projector import Projector

LOG_EVERY, SAVE_EVERY = 20, 100
_WARM_UP, _DECAY = 50, 0.7
"""Steps until the learning rate is reached; share of the steps over which it falls to 0."""


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
    """Looks at scenes with the vision tower."""

    @torch.no_grad()
    def look(self, numbers: range) -> list[Described]:
        """Draw scenes and look at them."""
        samples, pictures = self.drawn(numbers)
        with cpu_autocast():
            features = self.sight.refined(self.sight.tower_features(pictures))
        side = math.isqrt(features.shape[1])
        return [
            Described(seen.bfloat16(), self.names.cells(sample, (side, side)))
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
