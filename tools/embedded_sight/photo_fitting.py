"""Fit the mask decoder and the prompt projection to photos, the language model as it stands.

recipes/embedded-photos.toml trains all parts together, and a step of it is a step of the language
model: some ten passes over a hundred photos in an hour of a CPU. Whether the path from words to
masks learns photos can be told much sooner: the language model reads each expression once, and
decoder and projection then see its states some hundred times.

Notation: ``M`` masks, ``N`` photos, ``D`` width of the language model, ``S`` side of a photo.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from resumable.optimizers import Optimizers
from resumable.precision import cpu_autocast
from torch import Tensor, nn

from embedded_sight.photos import Asked, asked_of
from embedded_sight.speaking import read_states
from llmbind_cli.console import console
from llmbind_cli.data.batches import Batch, SeenBatch
from llmbind_cli.data.encode import EncodedSample, encode_dialogue
from llmbind_cli.data.sample import Sample, SegmentTarget, Turn
from llmbind_cli.data.segmentation import wordings
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.training.sight_losses import MaskWeights, sight_losses

_LOG_EVERY = 20
_WARM_UP, _DECAY = 50, 0.7
_PHOTOS, _MASKS = 8, 5
"""Photos a step, and the most masks of each."""

_NOISE = 0.1


@dataclass(frozen=True, kw_only=True)
class ReadPhotos:
    """Photos and what the language model makes of the expressions about them.

    Attributes:
        maps: Of the grounding encoder, finest first, each [N, C, h, w].
        states: Those that predict the ``seg`` tokens, [M, D].
        labels: The masks, uint8 [M, S, S]: 1, 0 or 255.
        image_of: Photo of each mask, [M].
    """

    maps: tuple[Tensor, ...]
    states: Tensor
    labels: Tensor
    image_of: Tensor


def read_photos(model: BoundModel, root: Path, *, wordings_of_each: int) -> ReadPhotos:
    """Have the language model read each expression of the photos to train on.

    Args:
        model: It sees and cuts out.
        root: COCO128.
        wordings_of_each: Replies to each expression.
    """
    asked = list(asked_of(root, "train")) * wordings_of_each
    rng = random.Random("photo fitting")
    numbers: dict[str, int] = {}
    maps: list[tuple[Tensor, ...]] = []
    states, labels, image_of = [], [], []
    for seen, found in read_states(model, (_encoded(model, one, rng) for one in asked)):
        states.append(found)
        labels.append(seen.labels)
        for row, one in enumerate(asked[len(image_of) : len(image_of) + len(found)]):
            if one.picture.id not in numbers:
                numbers[one.picture.id] = len(maps)
                maps.append(tuple(scale[row].clone() for scale in seen.maps))
            image_of.append(numbers[one.picture.id])
    return ReadPhotos(
        maps=tuple(torch.stack(scale) for scale in zip(*maps, strict=True)),
        states=torch.cat(states),
        labels=torch.cat(labels),
        image_of=torch.tensor(image_of),
    )


def _encoded(model: BoundModel, one: Asked, rng: random.Random) -> EncodedSample:
    """Word an expression as ``llmbind segment`` does, and a reply as the bundle's own are."""
    if model.sight is None:
        raise ValueError("the model must see")
    said = model.sight.config.segment_prompt.format(one.prompt)
    replied = wordings.reply(rng, "phrase", one.prompt, tied=True)
    region = one.region
    sample = Sample(
        id=one.id,
        turns=[Turn("user", said), Turn("assistant", replied)],
        image=str(one.picture.picture.path),
        pictures=(one.picture.picture,),
        segments=(SegmentTarget(mask=region.mask, phrase=one.prompt, ignored=region.ignored),),
        source_task="refer",
    )
    return encode_dialogue(
        sample, model.tokenizer, model.token_table, decision_weight=1.0, slot=model.image_slot
    )


def fit_photos(sight: Sight, read: ReadPhotos, *, steps: int, lr: float = 1e-3) -> None:
    """Fit decoder and projection, in place.

    Args:
        sight: Holds them.
        read: The photos.
        steps: Steps of 8 photos with up to 5 masks each.
        lr: Highest learning rate.
    """
    learning = nn.ModuleList([sight.mask_decoder, sight.prompt_projection]).train()
    optimizers = Optimizers(learning.parameters())
    masks_of = [
        (read.image_of == photo).nonzero()[:, 0].tolist() for photo in range(len(read.maps[0]))
    ]
    losses: list[Tensor] = []
    clock = time.monotonic()
    for step in range(steps):
        chance = random.Random(f"photos/{step}")
        photos = chance.sample(range(len(masks_of)), _PHOTOS)
        chosen = [chance.sample(masks_of[p], min(_MASKS, len(masks_of[p]))) for p in photos]
        masks = torch.tensor([mask for part in chosen for mask in part])
        image_of = torch.tensor([n for n, part in enumerate(chosen) for _ in part])
        noise = torch.randn(len(masks), 1, generator=torch.Generator().manual_seed(step))
        batch = _batch(read, photos, masks, image_of)
        hidden = (read.states[masks] * (1 + _NOISE * noise))[None]
        with cpu_autocast():
            loss = sight_losses(sight, batch, hidden, MaskWeights()).mask
        if loss is None:
            raise ValueError("a batch must have masks")
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


def _batch(read: ReadPhotos, photos: Sequence[int], masks: Tensor, image_of: Tensor) -> Batch:
    """Return a batch of one dialogue whose states are those of the masks, in order."""
    nothing = torch.zeros(1, len(masks), dtype=torch.long)
    seen = SeenBatch(
        features=torch.zeros(0),
        maps=tuple(scale[list(photos)] for scale in read.maps),
        image_of=image_of,
        places=torch.stack([nothing[0], torch.arange(len(masks))], dim=1),
        labels=read.labels[masks],
        boxes=torch.zeros(len(masks), 4),
        phrases=("",) * len(masks),
    )
    return Batch(
        input_ids=nothing,
        attention_mask=torch.ones_like(nothing),
        loss_weights=torch.zeros(1, len(masks)),
        reply_kinds=nothing,
        is_plain=torch.zeros(1, dtype=torch.bool),
        seen=seen,
    )
