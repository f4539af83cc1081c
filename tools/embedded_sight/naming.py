"""Teach the projector to list what the vision tower sees, before the language model reads it.

Its tables are spelled in the language model's own input embeddings: a name it is sure of becomes
what the model reads where somebody wrote that name. What is learned here is where things are, which
name each has, and which colour.

Notation: ``K`` cells of one or more pictures, ``W`` width of what the projector reads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from resumable.optimizers import TUNED
from resumable.precision import cpu_autocast
from resumable.state import load_state, save_state, take_what_fits
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.looking import Looking
from embedded_sight.names import Cells, Centres, Names
from llmbind_cli.console import console
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder
from llmbind_cli.nn.object_projector import CellScores, ObjectProjector
from llmbind_cli.nn.tuned_stage import TunedStage

LOG_EVERY, SAVE_EVERY = 20, 100
_WARM_UP, _DECAY = 50, 0.7
"""Steps until the learning rate is reached; share of the steps over which it falls to 0."""

_NEAR = 1.5
"""Cells that a found thing may be away from a true one, to be that one."""


@dataclass(frozen=True)
class Described:
    """A picture as the projector gets it.

    Attributes:
        features: Of the tower, bfloat16 [K, W].
        cells: What they show.
        centres: Where the things have their middle.
    """

    features: Tensor
    cells: Cells
    centres: Centres

    def clone(self) -> Described:
        """Copy the tensors."""
        return Described(self.features.clone(), self.cells.clone(), self.centres.clone())


class Describing(Looking[Described]):
    """Looks at scenes with the vision tower."""

    @torch.no_grad()
    def look(self, numbers: range) -> list[Described]:
        """Draw scenes and look at them."""
        samples, pictures = self.drawn(numbers)
        with cpu_autocast():
            features = self.sight.tower_features(pictures)
        side = math.isqrt(features.shape[1])
        return [
            Described(
                seen.bfloat16(),
                self.names.cells(sample, (side, side)),
                self.names.centres(sample, side),
            )
            for seen, sample in zip(features, samples, strict=True)
        ]


def teach_projector(
    projector: ObjectProjector, names: Names, looking: Describing,
    held_out: Mapping[str, Sequence[Described]], *,
    steps: int, state: Path, begun: int = 0, fresh: int = 8, again: int = 24, lr: float = 2e-3,
    workers: int = 0,
) -> None:  # fmt: skip
    """Train. Stopped, it goes on where it saved last.

    Args:
        projector: Is trained in place, its tables are filled.
        names: Of things.
        looking: Gives pictures.
        held_out: What they are called → pictures to score on.
        steps: Steps in all.
        state: File of the training's state.
        begun: Steps of another training that the projector comes from; one that goes on knows it.
        fresh: New pictures a step.
        again: Pictures seen before, a step.
        lr: Highest learning rate.
        workers: Processes that look at pictures ahead.

    Raises:
        ValueError: The projector knows other numbers of names or colours.
    """
    learning = names.fill(projector)
    optimizer = torch.optim.AdamW(_groups(projector, learning), weight_decay=0.05)
    beginning = _Beginning(begun)
    parts: dict[str, Any] = {
        "projector": projector,
        "optimizers": optimizer,
        "beginning": beginning,
    }
    first = load_state(state, **parts) or begun
    begun = beginning.step
    losses: list[Tensor] = []
    clock = time.monotonic()
    batches = looking.batches(range(first, steps), fresh, again, workers=workers)
    for step, looked in enumerate(batches, first):
        loss = _loss(projector, looked)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        rise, fall = (step + 1 - begun) / _WARM_UP, (steps - step) / (_DECAY * (steps - begun))
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * lr * min(1.0, rise, fall)
        optimizer.step()
        losses.append(loss.detach())
        if (step + 1) % LOG_EVERY == 0:
            mean = float(torch.stack(losses).mean())
            seconds = (time.monotonic() - clock) / len(losses)
            console.log(f"step {step + 1}/{steps}: loss {mean:.3f}, {seconds:.2f} s a step")
            losses, clock = [], time.monotonic()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(state, step + 1, **parts)
            for kind, pictures in held_out.items():
                shares = listed(projector, pictures).items()
                console.log(f"{kind}: {', '.join(f'{name} {share:.1%}' for name, share in shares)}")
            clock = time.monotonic()


@dataclass
class _Beginning:
    """The step at which a training began, as a part of its state."""

    step: int

    def state_dict(self) -> dict[str, int]:
        """Return it."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take it over."""
        self.step = state["step"]


def begin_neck(sight: Sight) -> None:
    """Let the neck of tuned blocks be the mask decoder's, which knows what things look like."""
    stage, decoder = getattr(sight.projector, "stage", None), sight.mask_decoder
    if isinstance(stage, TunedStage) and isinstance(decoder, LightMaskDecoder):
        take_what_fits(stage.lateral, decoder.coarse[-1].state_dict())
        take_what_fits(stage.neck, decoder.neck.state_dict())


def _groups(projector: ObjectProjector, learning: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Split what learns by its share of the learning rate."""
    stage = projector.stage
    tuned = set() if stage is None else {id(parameter) for parameter in stage.last.parameters()}
    groups = [
        {"params": [one for one in learning if id(one) not in tuned], "share": 1.0},
        {"params": [one for one in learning if id(one) in tuned], "share": TUNED},
    ]
    return [group for group in groups if group["params"]]


def _loss(projector: ObjectProjector, looked: Sequence[Described]) -> Tensor:
    """Score what the cells say of middles, and of what covers them, alone and gathered.

    The first by the focal loss of CornerNet (arXiv 1808.01244, Eq. 1), the others by cross-entropy.
    """
    scores = _scores(projector, looked)
    cells = Cells.of(one.cells for one in looked)
    centres = Centres.of(one.centres for one in looked)
    likely = scores.centres.flatten().sigmoid().clamp(1e-4, 1 - 1e-4)
    middle = (1 - likely).square() * likely.log()
    other = (1 - centres.heat) ** 4 * likely.square() * (1 - likely).log()
    count = centres.here.sum()
    loss = -torch.where(centres.here, middle, other).sum() / count
    away = (scores.offsets.flatten(0, 2) - centres.offsets).square().sum(1)
    loss = loss + (away * centres.here).sum() / count
    side = scores.centres.shape[1]
    most = max(int(one.centres.here.sum()) for one in looked)
    here, at = centres.here.view(len(looked), -1).byte().topk(most)  # [B, N]
    told = projector.described(scores, at // side, at % side)
    pairs = [(scores.names.flatten(0, 2), cells.things)]
    for said, of in zip(told, (centres.things, centres.colours), strict=True):
        wanted = of.view(len(looked), -1).gather(1, at).masked_fill(here == 0, -1)
        pairs.append((said.flatten(0, 1), wanted.flatten()))
    for said, wanted in pairs:
        sure = wanted >= 0
        wrong = functional.cross_entropy(said[sure], wanted[sure], reduction="sum")
        loss = loss + wrong / sure.sum().clamp(min=1)
    return loss


def _scores(projector: ObjectProjector, looked: Sequence[Described]) -> CellScores:
    """Score the cells of pictures; the tuned blocks, which are most of the work, in few bits."""
    features = torch.stack([one.features for one in looked]).float()
    with cpu_autocast():
        refined = projector.refined(features)
    return projector.scores(refined.float())


@torch.no_grad()
def listed(projector: ObjectProjector, looked: Sequence[Described]) -> dict[str, float]:
    """Compare lists with what is there.

    Returns:
        Shares: of things found; of those, named rightly, and of those whose colour is sure,
        coloured rightly; of pictures whose list has the right length, and names all things rightly.
    """
    found = projector.find(_scores(projector, looked))
    side = math.isqrt(len(looked[0].features))
    hits, named, coloured, lengths, lists = [], [], [], [], []
    for row, one in enumerate(looked):
        true = one.centres.here.nonzero().squeeze(1)
        middles = one.centres.offsets[true] + torch.stack([true % side, true // side], dim=1)
        away = torch.cdist(middles, found.places[row] * side)
        distance, which = away.masked_fill(~found.present[row], math.inf).min(1)
        hit = distance < _NEAR
        right = found.names[row].argmax(1)[which] == one.centres.things[true]
        hue = found.colours[row].argmax(1)[which] == one.centres.colours[true]
        sure = hit & (one.centres.colours[true] >= 0)
        hits += hit.tolist()
        named += right[hit].tolist()
        coloured += hue[sure].tolist()
        lengths.append(int(found.present[row].sum()) == len(true))
        lists.append(lengths[-1] and bool((hit & right).all()))
    told = {"found": hits, "named": named, "coloured": coloured}
    told |= {"right length": lengths, "right list": lists}
    return {name: sum(each) / max(1, len(each)) for name, each in told.items()}
