"""Fit the mask decoder and the prompt projection to masks, the language model as it stands.

A training of all parts together is slow: a step of it is a step of the language model. Here that
one reads each dialogue once, and decoder and projection then see its states some ten or hundred
times.

Notation: ``M`` masks, ``N`` pictures, ``D`` width of the language model, ``S`` side of the labels.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from resumable.optimizers import Optimizers
from resumable.precision import cpu_autocast
from resumable.state import Terms, load_state, save_state, take_what_fits
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from embedded_sight.grounding import tuned_blocks
from embedded_sight.speaking import encoded, read_states
from llmbind_cli.console import console
from llmbind_cli.data.batches import Batch, SeenBatch
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.sample import IGNORED, Sample
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.config import HEADS_NAME
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder
from llmbind_cli.nn.list_pointer import ListedThings
from llmbind_cli.nn.tuned_stage import TunedStage
from llmbind_cli.training.seeing import SeeingCollator
from llmbind_cli.training.sight_losses import MaskWeights, listed_things, sight_losses

_LOG_EVERY, _SAVE_EVERY = 20, 100
_WARM_UP, _DECAY = 50, 0.7
_PICTURES, _MASKS = 8, 5
"""Pictures a step, and the most masks of each."""

_NOISE = 0.1
_POINTING = 0.3
_AT_PLACE = 0.08
"""Share of the square that the middle of a mask may be away from a thing's place, to be of it."""


@dataclass(frozen=True, kw_only=True)
class ReadMasks:
    """Pictures and what the language model makes of the words for masks in them.

    Attributes:
        maps: Of the grounding encoder, finest first, each bfloat16 [N, C, h, w].
        states: Those that predict the ``seg`` tokens, [M, D].
        labels: The masks, uint8 [M, S, S]: 1, 0 or 255.
        image_of: Picture of each mask, [M].
        things: What the projector lists of the pictures, where the decoder points at it; in
            bfloat16.
    """

    maps: tuple[Tensor, ...]
    states: Tensor
    labels: Tensor
    image_of: Tensor
    things: ListedThings | None = None

    @classmethod
    def of(cls, parts: Sequence[ReadMasks]) -> ReadMasks:
        """Put several one after another."""
        counts = [0, *(len(part.maps[0]) for part in parts)]
        starts = torch.tensor(counts).cumsum(0)
        lists = [part.things for part in parts if part.things is not None]
        if len(lists) not in (0, len(parts)):
            raise ValueError("all that was read must tell of lists, or nothing")
        return cls(
            maps=tuple(torch.cat(scale) for scale in zip(*(p.maps for p in parts), strict=True)),
            states=torch.cat([part.states for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            image_of=torch.cat(
                [part.image_of + start for part, start in zip(parts, starts[:-1], strict=True)]
            ),
            things=_joined(lists),
        )

    def split(self, every: int) -> tuple[ReadMasks, ReadMasks]:
        """Set every so many-th picture apart.

        Returns:
            The masks of the other pictures, and those of the pictures set apart.
        """
        apart = torch.arange(len(self.maps[0])) % every == every - 1
        return self._of(~apart), self._of(apart)

    def _of(self, pictures: Tensor) -> ReadMasks:
        """Return the masks of some pictures, bool [N]."""
        wanted = pictures[self.image_of]
        number = pictures.cumsum(0) - 1
        return ReadMasks(
            maps=tuple(scale[pictures] for scale in self.maps),
            states=self.states[wanted],
            labels=self.labels[wanted],
            image_of=number[self.image_of[wanted]],
            things=None if self.things is None else _rows(self.things, pictures),
        )

    @classmethod
    def load(cls, path: Path) -> ReadMasks:
        """Read what :meth:`save` wrote."""
        read = torch.load(path, weights_only=True)
        things = read.pop("things", None)
        return cls(**read, things=None if things is None else ListedThings(*things))

    def save(self, path: Path) -> None:
        """Write it to a file."""
        things = None if self.things is None else tuple(self.things)
        torch.save({**vars(self), "things": things}, path)


def read_masks(
    model: BoundModel,
    samples: Iterable[Sample],
    *,
    finer: int = 1,
    collated: SeeingCollator | None = None,
) -> ReadMasks:
    """Have the language model read dialogues, each about one picture.

    Args:
        model: It sees and cuts out.
        samples: The dialogues; those about the same picture need not stand together.
        finer: How many pixels of the grounding encoder's square, across and down, make one label.
        collated: Makes batches of the dialogues; by default of what the model sees.
    """
    shown: list[str] = []

    def told() -> Iterator[EncodedSample]:
        for sample in samples:
            one = encoded(model, sample)
            if one.pointing:
                shown.append(str(sample.image))
            yield one

    numbers: dict[str, int] = {}
    maps: list[tuple[Tensor, ...]] = []
    lists: list[ListedThings] = []
    states, labels, image_of = [], [], []
    read = 0
    for seen, found in read_states(model, told(), collated=collated):
        states.append(found)
        labels.append(_coarser(seen.labels, finer))
        pictures = shown[read : read + len(seen.maps[0])]
        read += len(pictures)
        listed = _listed(model, seen)
        for row, picture in enumerate(pictures):
            if picture not in numbers:
                numbers[picture] = len(maps)
                maps.append(tuple(scale[row].bfloat16() for scale in seen.maps))
                if listed is not None:
                    lists.append(_rows(listed, torch.tensor([row])))
        image_of += [numbers[pictures[row]] for row in seen.image_of.tolist()]
    return ReadMasks(
        maps=tuple(torch.stack(scale) for scale in zip(*maps, strict=True)),
        states=torch.cat(states),
        labels=torch.cat(labels),
        image_of=torch.tensor(image_of),
        things=_joined(lists),
    )


def _listed(model: BoundModel, seen: SeenBatch) -> ListedThings | None:
    """Return what is listed of the pictures with masks, to be kept."""
    if model.sight is None or not model.sight.points:
        return None
    things = listed_things(model.sight, seen)
    return things and things._replace(told=things.told.bfloat16(), places=things.places.bfloat16())


def _joined(lists: Sequence[ListedThings]) -> ListedThings | None:
    """Put lists of pictures one after another."""
    return ListedThings(*map(torch.cat, zip(*lists, strict=True))) if lists else None


def _rows(things: ListedThings, pictures: Tensor) -> ListedThings:
    """Return the lists of some pictures."""
    return ListedThings(*(one[pictures] for one in things))


def _coarser(labels: Tensor, finer: int) -> Tensor:
    """Let squares of labels [M, S, S] be told by their majority; one that holds a 255 is 255."""
    if finer == 1:
        return labels
    covered = functional.avg_pool2d((labels == 1)[:, None].float(), finer)[:, 0] >= 0.5
    left_out = functional.max_pool2d((labels == IGNORED)[:, None].float(), finer)[:, 0] > 0
    return covered.byte().masked_fill(left_out, IGNORED)


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

    Raises:
        SystemExit: The state is of another training.
    """
    learning = nn.ModuleList([sight.mask_decoder, sight.prompt_projection]).train()
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
        batch = _batch(read, pictures, masks, image_of)
        hidden = (read.states[masks] * (1 + _NOISE * noise))[None]
        with cpu_autocast():
            loss = sight_losses(sight, batch, hidden, MaskWeights()).mask
        if loss is None:
            raise ValueError("a batch must have masks")
        loss = loss + _POINTING * _pointing_loss(sight, batch, hidden[0])
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


def _pointing_loss(sight: Sight, batch: Batch, states: Tensor) -> Tensor:
    """Score what the prompts point at by cross-entropy, where masks are of one listed thing."""
    decoder, seen = sight.mask_decoder, batch.seen
    if decoder is None or not sight.points or seen is None or seen.things is None:
        return states.new_zeros(())
    queries = sight.prompt_projection(states)[:, len(decoder.pointed) :]
    scores = decoder.pointer.scores(queries, seen.things, seen.image_of)
    meant = meant_things(seen.labels, seen.things, seen.image_of)
    wrong = functional.cross_entropy(scores, meant, ignore_index=-1, reduction="sum")
    return wrong / (meant >= 0).sum().clamp(min=1)


def meant_things(labels: Tensor, things: ListedThings, image_of: Tensor) -> Tensor:
    """Return the number of the listed thing whose mask each is, -1 where there is none, [M]."""
    shown = (labels == 1).float()
    middles = (torch.arange(labels.shape[-1]) + 0.5) / labels.shape[-1]
    area = shown.sum((1, 2)).clamp(min=1)
    across, down = ((shown.sum(axis) * middles).sum(1) / area for axis in (1, 2))
    away = (things.places[image_of] - torch.stack([across, down], dim=1)[:, None]).norm(dim=2)
    distance, which = away.masked_fill(~things.present[image_of], torch.inf).min(1)
    return torch.where(distance < _AT_PLACE, which, -1)


@torch.no_grad()
def score(sight: Sight, read: ReadMasks) -> float:
    """Return the cIoU of decoded masks against the labels."""
    overlap = union = 0
    for rows in torch.arange(len(read.states)).split(_PICTURES * _MASKS):
        pictures, image_of = read.image_of[rows].unique(return_inverse=True)
        maps = tuple(scale[pictures].float() for scale in read.maps)
        with cpu_autocast():
            things = _things(read, pictures)
            logits = sight.mask_logits(maps, read.states[rows], image_of, things).float()
        labels = read.labels[rows]
        raised = functional.interpolate(logits[:, None], labels.shape[-2:], mode="bilinear")[:, 0]
        found, counted = raised > 0, labels != IGNORED
        overlap += int((found & (labels == 1)).sum())
        union += int(((found & counted) | (labels == 1)).sum())
    return overlap / max(1, union)


def _things(read: ReadMasks, pictures: Tensor) -> ListedThings | None:
    """Return the lists of some pictures as the decoder takes them."""
    if read.things is None:
        return None
    things = _rows(read.things, pictures)
    return things._replace(told=things.told.float(), places=things.places.float())


def _batch(read: ReadMasks, pictures: Sequence[int], masks: Tensor, image_of: Tensor) -> Batch:
    """Return a batch of one dialogue whose states are those of the masks, in order."""
    nothing = torch.zeros(1, len(masks), dtype=torch.long)
    seen = SeenBatch(
        features=torch.zeros(0),
        maps=tuple(scale[list(pictures)].float() for scale in read.maps),
        pictured=nothing[0, :0],
        image_of=image_of,
        places=torch.stack([nothing[0], torch.arange(len(masks))], dim=1),
        labels=read.labels[masks],
        boxes=torch.zeros(len(masks), 4),
        phrases=("",) * len(masks),
        things=_things(read, torch.tensor(pictures)),
    )
    return Batch(
        input_ids=nothing,
        attention_mask=torch.ones_like(nothing),
        loss_weights=torch.zeros(1, len(masks)),
        reply_kinds=nothing,
        is_plain=torch.zeros(1, dtype=torch.bool),
        seen=seen,
    )
