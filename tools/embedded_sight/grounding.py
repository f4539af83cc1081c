"""Teach the mask decoder to find what a phrase means, and the projector to name what it sees.

Notation: ``G`` pictures, ``T`` targets, ``M`` masks, ``S`` side of a picture, ``K`` cells of a
picture, ``D`` width of the language model, ``P`` width of the prompt.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resumable.optimizers import Optimizers
from resumable.state import load_state, save_state
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.reader import LONGEST, PhraseReader
from llmbind_cli.console import console
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.questions import SceneQuestions
from llmbind_cli.data.scenes.seen import sure_colours
from llmbind_cli.data.scenes.world import World
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.losses import mask_dice_loss

LOG_EVERY, SAVE_EVERY, LOOK_EVERY = 20, 100, 500
_COVERED = 0.25
"""Share of a cell that a thing must cover for the cell to be named after it."""

_WARM_UP, _DECAY = 100, 0.7
"""Steps until the learning rate is reached; share of the steps over which it falls to 0."""

_SHARPNESS = 16.0
_BCE, _DICE, _NAMING = 2.0, 0.5, 0.1


@dataclass(frozen=True)
class Looked:
    """A picture as the frozen network sees it, with what may be asked of it.

    Attributes:
        maps: Finest first, each bfloat16 [C, h, w].
        masks: How much of each cell of the finest map a target covers, uint8 [T, h, w] of 255.
        truth: What shows of each target, bits packed along the last axis, [T, S, S / 8].
        phrases: The target's words, one a target.
        things: Thing that each cell shows, -1 for none, [K].
        colours: Its colour, -1 where it is not known, [K].
    """

    maps: tuple[Tensor, ...]
    masks: Tensor
    truth: np.ndarray
    phrases: list[str]
    things: Tensor
    colours: Tensor


class Names:
    """Where the language model's input space holds the names of things and colours.

    Args:
        embedding: The model's input embeddings.
        tokenizer: Its tokenizer.
        world: The things.
    """

    def __init__(self, embedding: nn.Module, tokenizer: Any, world: World) -> None:
        self.number = {thing.name: number for number, thing in enumerate(world)}

        def mean(words: str) -> Tensor:
            ids = tokenizer(f" {words}", add_special_tokens=False).input_ids
            return embedding(torch.tensor(ids)).detach().float().mean(0)

        self.things = torch.stack([mean(thing.noun.one) for thing in world])
        self.colours = torch.stack([mean(colour) for colour in NAMES])
        self.centre = self.things.mean(0)

    def loss(self, projected: Tensor, things: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        """Compare projected cells with the names of what they show.

        Args:
            projected: [K, D].
            things: [K], -1 for none.
            colours: [K], -1 for none.

        Returns:
            The loss, and the share of the cells whose nearest name is right.
        """
        away = projected - self.centre
        total = projected.new_zeros(())
        right = projected.new_zeros(())
        for table, wanted in ((self.things, things), (self.colours, colours)):
            chosen = wanted >= 0
            if not chosen.any():
                continue
            targets = functional.normalize(table - self.centre, dim=1)
            scores = _SHARPNESS * functional.normalize(away[chosen], dim=1) @ targets.T
            total = total + functional.cross_entropy(scores, wanted[chosen])
            if table is self.things:
                right = (scores.argmax(1) == wanted[chosen]).float().mean()
                length = (table - self.centre).square().mean().sqrt()
                lengths = away[chosen].square().mean(1).sqrt()
                total = total + ((lengths / length - 1) ** 2).mean()
        return total, right.detach()


class Looking:
    """Asks about scenes, and keeps what it has seen to ask again.

    Args:
        questions: The scenes.
        sight: The frozen network.
        names: Of things.
        kept: Pictures kept.
    """

    def __init__(
        self, questions: SceneQuestions, sight: Sight, names: Names, *, kept: int = 6000
    ) -> None:
        self._questions, self._sight, self._names, self._most = questions, sight, names, kept
        self._kept: list[Looked] = []

    def batch(self, step: int, fresh: int, again: int) -> list[Looked]:
        """Return new pictures, and some of those kept."""
        chance = random.Random(f"again/{step}")
        known = [chance.choice(self._kept) for _ in range(again)] if self._kept else []
        new = self.look(range(step * fresh, (step + 1) * fresh))
        for one in new:
            if len(self._kept) < self._most:
                self._kept.append(one)
            else:
                self._kept[chance.randrange(self._most)] = one
        return [*new, *known]

    @torch.no_grad()
    def look(self, numbers: range) -> list[Looked]:
        """Draw scenes and look at them."""
        samples = [self._questions[number] for number in numbers]
        pictures = [sample.pictures[0].load() for sample in samples]
        with torch.autocast("cpu", torch.bfloat16):
            maps = self._sight.maps(pictures)
        return [
            self._looked(sample, tuple(m[row].bfloat16() for m in maps))
            for row, sample in enumerate(samples)
        ]

    def _looked(self, sample: Sample, maps: tuple[Tensor, ...]) -> Looked:
        picture: Any = sample.pictures[0]
        truth = np.stack([segment.mask.decode() for segment in sample.segments])
        masks = functional.interpolate(
            torch.from_numpy(truth)[:, None].float(), maps[0].shape[-2:], mode="area"
        )[:, 0]
        shown = torch.from_numpy(picture.renderer.drawn(picture)[1]).float()  # [things, S, S]
        cells = maps[-1].shape[-2:]
        cover = functional.interpolate(shown[:, None], cells, mode="area")[:, 0].flatten(1)
        most, which = cover.max(0)
        placed = picture.arrangement.things
        numbers = torch.tensor([self._names.number[one.thing.name] for one in placed])
        sure = [sure_colours(one) for one in placed]
        colours = torch.tensor([NAMES.index(next(iter(c))) if len(c) == 1 else -1 for c in sure])
        seen = most >= _COVERED
        return Looked(
            maps=maps,
            masks=(masks * 255).round().byte(),
            truth=np.packbits(truth, axis=-1),
            phrases=[segment.phrase for segment in sample.segments],
            things=torch.where(seen, numbers[which], -1),
            colours=torch.where(seen, colours[which], -1),
        )


class Grounding(nn.Module):
    """What learns: reader, mask decoder and projector.

    Args:
        sight: Holds decoder and projector.
        embedding: Input embeddings of the language model, frozen.
        tokenizer: Its tokenizer.
    """

    def __init__(self, sight: Sight, embedding: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        decoder = sight.mask_decoder
        hidden_size = sight.projector.linear_2.out_features
        self.decoder, self.projector = decoder, sight.projector
        self.reader = PhraseReader(hidden_size=hidden_size, prompt_width=decoder.prompt_width)
        self._scale = float(embedding.weight.detach().float().square().mean().sqrt())
        self._frozen = (sight.tower, embedding, tokenizer)  # a tuple: no part of what is saved

    def prompts(self, phrases: list[str]) -> Tensor:
        """Read phrases; [M, P]."""
        _, embedding, tokenizer = self._frozen
        told = tokenizer([f" {phrase}" for phrase in phrases], add_special_tokens=False).input_ids
        rows = [torch.tensor(ids[:LONGEST]) for ids in told]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([row >= 0 for row in rows], batch_first=True)
        with torch.no_grad():
            embeddings = embedding(ids).float()
        return self.reader(embeddings / self._scale, mask)

    def logits(self, looked: list[Looked], asked: list[tuple[int, int]]) -> Tensor:
        """Decode masks; ``asked`` tells picture and target of each; [M, h, w]."""
        maps = tuple(
            torch.stack(scale).float() for scale in zip(*(o.maps for o in looked), strict=True)
        )
        prompts = self.prompts([looked[row].phrases[target] for row, target in asked])
        image_of = torch.tensor([row for row, _ in asked])
        return self.decoder(maps, prompts, image_of)

    def projected(self, looked: list[Looked]) -> Tensor:
        """Project the cells of pictures, [G · K, D]."""
        tower: Any = self._frozen[0]
        wanted = dict(zip((4, 8, 16, 32), zip(*(o.maps for o in looked), strict=True), strict=True))
        features = tower.tokens({stride: torch.stack(m).float() for stride, m in wanted.items()})
        return self.projector(features).flatten(0, 1)


def teach_grounding(
    networks: Grounding, names: Names, looking: Looking, held_out: list[Looked], *,
    steps: int, state: Path, fresh: int = 6, again: int = 6, masks: int = 3, lr: float = 1e-3,
) -> None:  # fmt: skip
    """Train. Stopped, it goes on where it saved last.

    Args:
        networks: Trained in place.
        names: Of things.
        looking: Gives pictures.
        held_out: Pictures to score on.
        steps: Steps in all.
        state: File of the training's state.
        fresh: New pictures a step.
        again: Pictures seen before, a step.
        masks: Most masks a picture, a step.
        lr: Highest learning rate.
    """
    parts: dict[str, Any] = {
        "networks": networks,
        "optimizers": Optimizers(networks.parameters()),
    }
    first = load_state(state, **parts)
    losses: list[Tensor] = []
    clock = time.monotonic()
    for step in range(first, steps):
        looked = looking.batch(step, fresh, again)
        chance = random.Random(f"asked/{step}")
        asked = [
            (row, target)
            for row, one in enumerate(looked)
            for target in chance.sample(range(len(one.phrases)), min(masks, len(one.phrases)))
        ]
        target = torch.stack([looked[row].masks[n] for row, n in asked]).float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            logits = networks.logits(looked, asked)
            projected = networks.projected(looked)
        logits = logits.float()
        bce = functional.binary_cross_entropy_with_logits(logits, target)
        dice = mask_dice_loss(logits, target)
        naming, right = names.loss(
            projected.float(),
            torch.cat([one.things for one in looked]),
            torch.cat([one.colours for one in looked]),
        )
        (_BCE * bce + _DICE * dice + _NAMING * naming).backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        rise, fall = (step + 1) / _WARM_UP, (steps - step) / (_DECAY * steps)
        parts["optimizers"].step(lr * min(1.0, rise, fall))
        losses.append(torch.stack([bce, dice, naming, right]).detach())
        if (step + 1) % LOG_EVERY == 0:
            b, d, n, r = torch.stack(losses).mean(0).tolist()
            seconds = (time.monotonic() - clock) / len(losses)
            console.log(
                f"step {step + 1}/{steps}: bce {b:.4f}, dice {d:.3f}, naming {n:.3f}, "
                f"cells named {r:.1%}, {seconds:.2f} s a step"
            )
            losses, clock = [], time.monotonic()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(state, step + 1, **parts)
        if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
            console.log(f"held out: cIoU {score(networks, held_out):.3f}")
            clock = time.monotonic()


@torch.no_grad()
def score(networks: Grounding, looked: list[Looked], at_once: int = 8) -> float:
    """Return the cIoU of masks against the truth at full size."""
    overlap = union = 0
    for start in range(0, len(looked), at_once):
        part = looked[start : start + at_once]
        asked = [(row, n) for row, one in enumerate(part) for n in range(len(one.phrases))]
        with torch.autocast("cpu", torch.bfloat16):
            logits = networks.logits(part, asked).float()
        truth = torch.from_numpy(
            np.stack([np.unpackbits(part[row].truth[n], axis=-1) for row, n in asked])
        ).bool()
        raised = functional.interpolate(logits[:, None], truth.shape[-2:], mode="bilinear")[:, 0]
        found = raised > 0
        overlap += int((found & truth).sum())
        union += int((found | truth).sum())
    return overlap / max(1, union)
