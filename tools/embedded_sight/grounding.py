"""Teach the mask decoder to find what a phrase means.

Masks alone teach a decoder slowly what a thing looks like: a mask a phrase, of hundreds of names.
So each cell that the decoder attends to is named too, through a layer that is left out afterwards.

Notation: ``G`` pictures, ``T`` targets, ``M`` masks, ``S`` side of a picture, ``K`` cells of a
picture, ``D`` width of the language model, ``P`` width of the prompt.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resumable.optimizers import Optimizers
from resumable.precision import cpu_autocast
from resumable.state import load_state, save_state
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.looking import Looking
from embedded_sight.names import Cells, Names
from embedded_sight.reader import LONGEST, PhraseReader
from llmbind_cli.console import console
from llmbind_cli.data.sample import Sample
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.list_pointer import ListedThings
from llmbind_cli.nn.losses import mask_dice_loss

LOG_EVERY, SAVE_EVERY, LOOK_EVERY = 20, 100, 500
_WARM_UP, _DECAY = 100, 0.7
"""Steps until the learning rate is reached; share of the steps over which it falls to 0."""

_BCE, _DICE, _NAMING = 2.0, 0.5, 0.1


@dataclass(frozen=True)
class Looked:
    """A picture as the frozen networks see it, with what may be asked of it.

    Attributes:
        maps: Of the grounding encoder, finest first, each bfloat16 [C, h, w].
        masks: How much of each cell of the finest map a target covers, uint8 [T, h, w] of 255.
        truth: What shows of each target, bits packed along the last axis, [T, S, S / 8].
        phrases: The target's words, one a target.
        cells: What the cells show that the decoder attends to.
    """

    maps: tuple[Tensor, ...]
    masks: Tensor
    truth: np.ndarray
    phrases: list[str]
    cells: Cells

    def clone(self) -> Looked:
        """Copy the tensors."""
        maps = tuple(one.clone() for one in self.maps)
        return replace(self, maps=maps, masks=self.masks.clone(), cells=self.cells.clone())


class Asking(Looking[Looked]):
    """Looks at scenes with the grounding encoder, to ask where things are."""

    @torch.no_grad()
    def look(self, numbers: range) -> list[Looked]:
        """Draw scenes and look at them."""
        samples, pictures = self.drawn(numbers)
        with cpu_autocast():
            maps = self.sight.maps(pictures)
        return [
            self._looked(sample, tuple(m[row].bfloat16() for m in maps))
            for row, sample in enumerate(samples)
        ]

    def _looked(self, sample: Sample, maps: tuple[Tensor, ...]) -> Looked:
        truth = np.stack([segment.mask.decode() for segment in sample.segments])
        masks = functional.interpolate(
            torch.from_numpy(truth)[:, None].float(), maps[0].shape[-2:], mode="area"
        )[:, 0]
        encoder, attended = self.sight.grounding, len(self.sight.mask_decoder.coarse)
        side = encoder.preprocessing.side_px // encoder.strides[-attended]
        return Looked(
            maps=maps,
            masks=(masks * 255).round().byte(),
            truth=np.packbits(truth, axis=-1),
            phrases=[segment.phrase for segment in sample.segments],
            cells=self.names.cells(sample, (side, side)),
        )


class Grounding(nn.Module):
    """What learns: reader, and mask decoder with what names its cells.

    Nothing is listed yet, so a decoder that points at things is not taught that here.

    Args:
        sight: Holds the decoder.
        embedding: Input embeddings of the language model, frozen.
        tokenizer: Its tokenizer.
    """

    def __init__(self, sight: Sight, embedding: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        decoder = sight.mask_decoder
        hidden_size, width = embedding.weight.shape[1], decoder.mask_token.shape[0]
        self.decoder = decoder
        self.reader = PhraseReader(hidden_size=hidden_size, prompt_width=width)
        self.naming = nn.Linear(width, hidden_size)
        self._scale = float(embedding.weight.detach().float().square().mean().sqrt())
        self._frozen = (embedding, tokenizer)  # a tuple: no part of what is saved

    def prompts(self, phrases: list[str]) -> Tensor:
        """Read phrases; [M, P], without what points at listed things."""
        embedding, tokenizer = self._frozen
        told = tokenizer([f" {phrase}" for phrase in phrases], add_special_tokens=False).input_ids
        rows = [torch.tensor(ids[:LONGEST]) for ids in told]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([row >= 0 for row in rows], batch_first=True)
        with torch.no_grad():
            embeddings = embedding(ids).float()
        return self.reader(embeddings / self._scale, mask)

    def forward(self, looked: list[Looked], asked: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Decode masks, and name the cells that the decoder attends to.

        Args:
            looked: Pictures.
            asked: Picture and target of each mask.

        Returns:
            Logits [M, h, w], and a place among the language model's embeddings for each cell,
            [G · K, D].
        """
        maps = tuple(
            torch.stack(scale).float() for scale in zip(*(o.maps for o in looked), strict=True)
        )
        embedding = self.decoder.embedding(maps)
        prompts = self.prompts([looked[row].phrases[target] for row, target in asked])
        image_of = torch.tensor([row for row, _ in asked])
        things = None
        if (pointer := self.decoder.pointer) is not None:
            things = nothing_listed(len(looked), pointer.told_width)
            prompts = functional.pad(prompts, (0, self.decoder.prompt_width - prompts.shape[1]))
        logits = self.decoder.masks(embedding, maps, prompts, image_of, things)
        return logits, self.naming(embedding.flatten(2).transpose(1, 2).flatten(0, 1))


def nothing_listed(pictures: int, told_width: int) -> ListedThings:
    """Return the lists of pictures in which nothing was found."""
    return ListedThings(
        torch.zeros(pictures, 0, told_width),
        torch.zeros(pictures, 0, 2),
        torch.zeros(pictures, 0, dtype=torch.bool),
    )


def teach_grounding(
    networks: Grounding, names: Names, looking: Asking, held_out: Mapping[str, list[Looked]], *,
    steps: int, state: Path, fresh: int = 6, again: int = 6, masks: int = 3, lr: float = 1e-3,
    workers: int = 0,
) -> None:  # fmt: skip
    """Train. Stopped, it goes on where it saved last.

    Args:
        networks: Trained in place.
        names: Of things.
        looking: Gives pictures.
        held_out: Pictures to score on, by name.
        steps: Steps in all.
        state: File of the training's state.
        fresh: New pictures a step.
        again: Pictures seen before, a step.
        masks: Most masks a picture, a step.
        lr: Highest learning rate.
        workers: Processes that look at pictures ahead.
    """
    parts: dict[str, Any] = {
        "networks": networks,
        "optimizers": Optimizers(networks.parameters(), tuned=tuned_blocks(networks.decoder)),
    }
    first = load_state(state, **parts)
    losses: list[Tensor] = []
    clock = time.monotonic()
    batches = looking.batches(range(first, steps), fresh, again, workers=workers)
    for step, looked in enumerate(batches, first):
        chance = random.Random(f"asked/{step}")
        asked = [
            (row, target)
            for row, one in enumerate(looked)
            for target in chance.sample(range(len(one.phrases)), min(masks, len(one.phrases)))
        ]
        target = torch.stack([looked[row].masks[n] for row, n in asked]).float() / 255
        with cpu_autocast():
            logits, named = networks(looked, asked)
        logits = logits.float()
        bce = functional.binary_cross_entropy_with_logits(logits, target)
        dice = mask_dice_loss(logits, target)
        naming, right = names.loss(named.float(), Cells.of(one.cells for one in looked))
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
            for which, pictures in held_out.items():
                console.log(f"held out, {which}: cIoU {score(networks, pictures):.3f}")
            clock = time.monotonic()


def tuned_blocks(decoder: nn.Module | None) -> list[nn.Parameter]:
    """Return the weights of a mask decoder's tuned blocks, if it has some."""
    blocks = getattr(decoder, "last", None)
    return [] if blocks is None else list(blocks.parameters())


@torch.no_grad()
def score(networks: Grounding, looked: list[Looked], at_once: int = 8) -> float:
    """Return the cIoU of masks against the truth at full size."""
    overlap = union = 0
    for start in range(0, len(looked), at_once):
        part = looked[start : start + at_once]
        asked = [(row, n) for row, one in enumerate(part) for n in range(len(one.phrases))]
        with cpu_autocast():
            logits = networks(part, asked)[0].float()
        truth = torch.from_numpy(
            np.stack([np.unpackbits(part[row].truth[n], axis=-1) for row, n in asked])
        ).bool()
        raised = functional.interpolate(logits[:, None], truth.shape[-2:], mode="bilinear")[:, 0]
        found = raised > 0
        overlap += int((found & truth).sum())
        union += int((found | truth).sum())
    return overlap / max(1, union)
