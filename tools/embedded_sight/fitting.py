"""Fit the mask decoder and the prompt projection to masks, the language model as it stands.

A training of all parts together is slow: a step of it is a step of the language model. Here that
one reads each dialogue once, and decoder and projection then see its states some ten or hundred
times.

Notation: ``M`` masks, ``N`` pictures, ``D`` width of the language model, ``S`` side of the labels.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from resumable.optimizers import Optimizers
from resumable.precision import cpu_autocast
from resumable.state import Terms, load_state, save_state, take_what_fits
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.grounding import tuned_blocks
from embedded_sight.reading import ReadMasks, meant_things
from llmbind_cli.console import console
from llmbind_cli.data.sample import IGNORED
from llmbind_cli.model.config import HEADS_NAME
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder
from llmbind_cli.nn.list_pointer import SURENESS, ListedThings
from llmbind_cli.nn.tuned_stage import TunedStage
from llmbind_cli.training.sight_losses import MaskWeights, mask_loss

_LOG_EVERY, _SAVE_EVERY = 20, 100
_WARM_UP, _DECAY = 50, 0.7
_PICTURES, _MASKS = 8, 5
"""Pictures a step, and the most masks of each."""

_NOISE = 0.1
_POINTING = 0.3
_RIDGE = 30.0


def begin_as(sight: Sight, bundle: Path) -> None:
    """Begin a decoder of another shape with what fits of a bundle's.

    Where only this one has tuned blocks, these and the neck after them are the projector's, which
    can name. Where only this one points at things, the rest of the prompt stays as it was.

    Args:
        sight: Its decoder and prompt projection change in place.
        bundle: The bundle's folder.
    """
    own, saved = sight.heads(), load_file(bundle / HEADS_NAME)
    cutting = ("mask_decoder.", "prompt_projection.")
    fitting = {
        name: saved[name]
        for name, head in own.items()
        if name.startswith(cutting) and name in saved and saved[name].shape == head.shape
    }
    stage, decoder = getattr(sight.projector, "stage", None), sight.mask_decoder
    if sight.points:
        for name in ("prompt_projection.linear_2.weight", "prompt_projection.linear_2.bias"):
            if len(saved[name]) == len(decoder.pointed):
                fitting[name] = torch.cat(
                    [saved[name].to(own[name]), own[name][len(saved[name]) :]]
                )
    sight.load_heads(fitting)
    if (
        isinstance(stage, TunedStage)
        and isinstance(decoder, LightMaskDecoder)
        and decoder.last is not None
        and not any(name.startswith("mask_decoder.last.") for name in saved)
    ):
        take_what_fits(decoder.last, stage.last.state_dict())
        take_what_fits(decoder.coarse[-1], stage.lateral.state_dict())
        take_what_fits(decoder.neck, stage.neck.state_dict())


def fit_masks(
    sight: Sight, read: ReadMasks, *, steps: int, lr: float = 1e-3,
    apart: ReadMasks | None = None, state: Path | None = None, terms: Terms | None = None,
    kept_prompts: bool = False,
) -> None:  # fmt: skip
    """Fit decoder and projection, in place. Stopped, it goes on where it saved last.

    Args:
        sight: Holds them.
        read: What was read.
        steps: Steps of 8 pictures with up to 5 masks each.
        lr: Highest learning rate.
        apart: What to score on while they learn.
        state: File of the training's state; without one nothing is saved.
        terms: What the training learns from; a state of another is refused.
        kept_prompts: The decoder alone learns, without what points at things.

    Raises:
        SystemExit: The state is of another training.
    """
    decoder = sight.mask_decoder
    learning = nn.ModuleList([decoder, sight.prompt_projection]).train()
    if kept_prompts:
        sight.prompt_projection.requires_grad_(False)
        decoder.pointer.requires_grad_(False)
    optimizers = Optimizers(learning.parameters(), tuned=tuned_blocks(sight.mask_decoder))
    masks_of = [
        (read.image_of == picture).nonzero()[:, 0].tolist() for picture in range(len(read.maps[0]))
    ]
    parts = {"terms": terms or Terms(), "heads": learning, "optimizers": optimizers}
    first = 0
    if state is not None and not (first := load_state(state, **parts)):
        save_state(state, 0, **parts)
    losses: list[Tensor] = []
    clock = time.monotonic()
    for step in range(first, steps):
        chance = random.Random(f"photos/{step}")
        pictures = chance.sample(range(len(masks_of)), _PICTURES)
        chosen = [chance.sample(masks_of[p], min(_MASKS, len(masks_of[p]))) for p in pictures]
        masks = torch.tensor([mask for part in chosen for mask in part])
        image_of = torch.tensor([n for n, part in enumerate(chosen) for _ in part])
        noise = torch.randn(len(masks), 1, generator=torch.Generator().manual_seed(step))
        hidden = read.states[masks] * (1 + _NOISE * noise)
        maps = tuple(scale[pictures].float() for scale in read.maps)
        things, labels = read.listed(torch.tensor(pictures)), read.labels[masks]
        with cpu_autocast():
            logits = sight.mask_logits(maps, hidden, image_of, things)
            loss = mask_loss(logits, labels, MaskWeights())
        if things is not None and not kept_prompts:
            scores = _scores(sight, hidden, things, image_of)
            meant = meant_things(labels, things, image_of)
            loss = loss + _POINTING * _pointing_loss(scores, meant)
        loss.backward()
        nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
        rise, fall = (step + 1) / _WARM_UP, (steps - step) / (_DECAY * steps)
        optimizers.step(lr * min(1.0, rise, fall))
        losses.append(loss.detach())
        if (step + 1) % _LOG_EVERY == 0:
            seconds = (time.monotonic() - clock) / len(losses)
            mean = float(torch.stack(losses).mean())
            console.log(f"step {step + 1}/{steps}: loss {mean:.4f}, {seconds:.2f} s a step")
            losses, clock = [], time.monotonic()
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
            if state is not None:
                save_state(state, step + 1, **parts)
            if apart is not None:
                console.log(f"set apart: cIoU {score(sight, apart):.4f}")
            clock = time.monotonic()


@contextlib.contextmanager
def as_learned(decoder: Any) -> Iterator[None]:
    """Leave out for a while what a decoder that points at things was told and has not learned.

    Else it would learn to make up for that.
    """
    pointer = getattr(decoder, "pointer", None)
    if pointer is None:
        yield
        return
    trust, unnamed = decoder.pointer_trust, pointer.unnamed
    decoder.pointer_trust, pointer.unnamed = None, 0.0
    try:
        yield
    finally:
        decoder.pointer_trust, pointer.unnamed = trust, unnamed


def _scores(sight: Sight, states: Tensor, things: ListedThings, image_of: Tensor) -> Tensor:
    """Score what the prompts of states [M, D] point at, [M, N]."""
    decoder = sight.mask_decoder
    queries = sight.prompt_projection(states)[:, len(decoder.pointed) :]
    scores: Tensor = decoder.pointer.scores(queries, things, image_of)
    return scores


def _pointing_loss(scores: Tensor, meant: Tensor) -> Tensor:
    """Compare what prompts point at, [M, N], with what is meant, [M], -1 for no listed thing."""
    wrong = functional.cross_entropy(scores, meant, ignore_index=-1, reduction="sum")
    return wrong / (meant >= 0).sum().clamp(min=1)


@torch.no_grad()
def say_what_is_listed(sight: Sight, read: ReadMasks) -> None:
    """Let what is listed of a thing become the prompt that words for it become (ridge regression).

    Args:
        sight: What its decoder makes of what is listed changes in place.
        read: What was read.
    """
    decoder, things = sight.mask_decoder, read.listed()
    if things is None or decoder.listed is None:
        return
    meant = meant_things(read.labels, things, read.image_of)
    right = _scores(sight, read.states, things, read.image_of).argmax(1) == meant
    told = things.told[read.image_of[right], meant[right]]
    told = torch.cat([told, torch.ones(len(told), 1)], dim=1)
    prompts = sight.prompt_projection(read.states[right])[:, : len(decoder.pointed)]
    gram = told.T @ told + _RIDGE * torch.eye(told.shape[1])
    weights = torch.linalg.solve(gram, told.T @ prompts)
    decoder.listed.weight.copy_(weights[:-1].T)
    decoder.listed.bias.copy_(weights[-1])


def calibrate(sight: Sight, apart: ReadMasks) -> None:
    """Fit how much an unsure name speaks for a thing, to masks that nothing else was fitted to.

    Of the words that it learned from the pointer knows what they mean, and need not ask what has no
    name; so that is weighed anew, as temperatures are (Guo et al., arXiv 1706.04599).

    Args:
        sight: It points at things; two weights change in place.
        apart: What to fit them to.
    """
    things = apart.listed()
    if things is None:
        return
    meant = meant_things(apart.labels, things, apart.image_of)
    present = things.present[apart.image_of]
    sureness = things.told[apart.image_of][..., SURENESS]
    with torch.no_grad():
        scores = _scores(sight, apart.states, things, apart.image_of)
    change = torch.zeros(sureness.shape[-1], requires_grad=True)
    fit = torch.optim.LBFGS([change], max_iter=100)

    def weighed() -> Tensor:
        return torch.where(present, scores + sureness @ change, scores)

    def loss() -> Tensor:
        fit.zero_grad()
        wrong = _pointing_loss(weighed(), meant)
        wrong.backward()
        return wrong

    fit.step(loss)
    with torch.no_grad():
        sight.mask_decoder.pointer.usual.weight[0, SURENESS] += change
        known = meant >= 0
        right = [int((s.argmax(1) == meant)[known].sum()) for s in (scores, weighed())]
    console.log(f"pointed rightly {right[1]} of {int(known.sum())} times, before {right[0]}")


@torch.no_grad()
def score(sight: Sight, read: ReadMasks) -> float:
    """Return the cIoU of decoded masks against the labels."""
    overlap = union = 0
    for rows in torch.arange(len(read.states)).split(_PICTURES * _MASKS):
        pictures, image_of = read.image_of[rows].unique(return_inverse=True)
        maps = tuple(scale[pictures].float() for scale in read.maps)
        with cpu_autocast():
            things = read.listed(pictures)
            logits = sight.mask_logits(maps, read.states[rows], image_of, things).float()
        labels = read.labels[rows]
        raised = functional.interpolate(logits[:, None], labels.shape[-2:], mode="bilinear")[:, 0]
        found, counted = raised > 0, labels != IGNORED
        overlap += int((found & (labels == 1)).sum())
        union += int(((found & counted) | (labels == 1)).sum())
    return overlap / max(1, union)
