"""Length-grouped batches and their padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.mixture import Mixture

if TYPE_CHECKING:
    from llmbind_cli.nn.list_pointer import ListedThings

GROUP = 50
"""Batches whose samples are sorted together; larger pads less and shuffles less."""

WIDTH_STEP = 16
"""Widths are multiples of this: CPU kernels are compiled, and kept, for each new shape."""


@dataclass(frozen=True, kw_only=True)
class SeenBatch:
    """What the dialogues of a batch speak of, as the frozen networks see it.

    ``N`` pictures with ``K`` tokens each, in the order of the ids; ``G`` of them have masks, of
    which there are ``M``, over squares of ``S × S`` pixels.

    Attributes:
        features: Of the vision tower, float ``[N, K, W]``.
        maps: Of the grounding encoder, finest first, each float ``[G, C, h, w]``; empty where there
            is no mask.
        pictured: Which of the ``N`` pictures each of the ``G`` is, int64 ``[G]``.
        image_of: Which of the ``G`` pictures each mask is of, int64 ``[M]``.
        places: Row, and column of the id *before* each segmentation token, whose state predicts it;
            int64 ``[M, 2]``.
        labels: 1 in the mask, 0 beside it, 255 where nothing counts; uint8 ``[M, S, S]``.
        boxes: Around each mask, over the sides of its picture in [0, 1], float ``[M, 4]``.
        phrases: The words that each mask belongs to, ``M``.
        things: What is listed of the ``G`` pictures, where that is not what their features tell.
    """

    features: Tensor
    maps: tuple[Tensor, ...]
    pictured: Tensor
    image_of: Tensor
    places: Tensor
    labels: Tensor
    boxes: Tensor
    phrases: tuple[str, ...] = ()
    things: ListedThings | None = None

    def to(self, device: torch.device) -> SeenBatch:
        """Return it on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        things = self.things
        if things is not None:
            things = type(things)(*(one.to(device) for one in things))
        maps = tuple(one.to(device) for one in self.maps)
        return replace(self, **moved, maps=maps, things=things)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``B`` samples padded on the right to ``T`` ids.

    Attributes:
        input_ids: int64 ``[B, T]``.
        attention_mask: int64 ``[B, T]``, 1 for ids and 0 for padding.
        loss_weights: float32 ``[B, T]``, 0 outside assistant turns.
        reply_kinds: int64 ``[B, T]``, indices into ``REPLY_KINDS``.
        is_plain: bool ``[B]``, true for dialogues in words alone that call no task.
        seen: The pictures and masks of the dialogues; ``None`` where there are none.
    """

    input_ids: Tensor
    attention_mask: Tensor
    loss_weights: Tensor
    reply_kinds: Tensor
    is_plain: Tensor
    seen: SeenBatch | None = None

    def _tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "seen"}

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        moved = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return replace(self, seen=None if self.seen is None else self.seen.to(device), **moved)

    def select(self, rows: Tensor) -> Batch:
        """Return the dialogues of the given rows, padded as they are, without their pictures."""
        chosen = {name: tensor[rows] for name, tensor in self._tensors().items()}
        return replace(self, seen=None, **chosen)


Collate = Callable[[Sequence[EncodedSample]], Batch]


def epoch_order(
    mixture: Mixture, lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Return one epoch's batches as lists of sample indices.

    The epoch's samples are shuffled, sorted by length within groups of ``GROUP`` batches, cut
    into batches, and the batches shuffled. The order follows from ``seed`` and ``epoch`` alone,
    so a resumed run finds its place by counting.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64)
    samples = mixture.epoch(epoch)
    shuffled = [samples[i] for i in torch.randperm(len(samples), generator=generator).tolist()]
    batches = []
    for start in range(0, len(shuffled), batch_size * GROUP):
        group = sorted(shuffled[start : start + batch_size * GROUP], key=lengths.__getitem__)
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def endless_batches(
    samples: Sequence[EncodedSample],
    mixture: Mixture,
    batch_size: int,
    *,
    seed: int,
    skip: int = 0,
    rank: int = 0,
    world_size: int = 1,
    collated: Collate | None = None,
) -> Iterator[Batch]:
    """Yield batches epoch after epoch.

    Several processes share one row of batches: each takes every ``world_size``-th, so that ``W``
    processes do together what one does with ``W`` times the accumulation.

    Args:
        samples: All training samples.
        mixture: Which of them an epoch holds.
        batch_size: Samples a batch; an epoch's last batch may be smaller.
        seed: Seed of the order.
        skip: Batches that all processes together have consumed in the run that is being resumed.
        rank: Number of this process.
        world_size: Number of processes.
        collated: Makes a batch of samples; :func:`collate` where it is not given.
    """
    make = collated or collate
    lengths = [len(sample.ids) for sample in samples]
    per_epoch = -(-len(mixture) // batch_size)
    epoch, done = divmod(skip, per_epoch)
    number = skip
    while True:
        order = epoch_order(mixture, lengths, batch_size, seed=seed, epoch=epoch)
        for indices in order[done:]:
            if number % world_size == rank:
                yield make([samples[index] for index in indices])
            number += 1
        epoch, done = epoch + 1, 0


def collate(samples: Sequence[EncodedSample]) -> Batch:
    """Pad samples on the right to a multiple of ``WIDTH_STEP`` ids; the mask hides padding."""
    longest = max(len(sample.ids) for sample in samples)
    width = -(-longest // WIDTH_STEP) * WIDTH_STEP
    return Batch(
        input_ids=torch.tensor([s.ids + [0] * (width - len(s.ids)) for s in samples]),
        attention_mask=torch.tensor(
            [[1] * len(s.ids) + [0] * (width - len(s.ids)) for s in samples]
        ),
        loss_weights=torch.tensor([s.loss_weights + [0.0] * (width - len(s.ids)) for s in samples]),
        reply_kinds=torch.tensor([s.reply_kinds + [0] * (width - len(s.ids)) for s in samples]),
        is_plain=torch.tensor([not s.tasks and s.sample is None for s in samples]),
    )
