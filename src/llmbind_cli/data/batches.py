"""Length-grouped batches and their padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.mixture import Mixture

GROUP = 50
"""Batches whose samples are sorted together; larger pads less and shuffles less."""

WIDTH_STEP = 16
"""Widths are multiples of this: CPU kernels are compiled, and kept, for each new shape."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``B`` samples padded on the right to ``T`` ids.

    Attributes:
        input_ids: int64 ``[B, T]``.
        attention_mask: int64 ``[B, T]``, 1 for ids and 0 for padding.
        loss_weights: float32 ``[B, T]``, 0 outside assistant turns.
        reply_kinds: int64 ``[B, T]``, indices into ``REPLY_KINDS``.
        is_plain: bool ``[B]``, true for dialogues that call no task.
    """

    input_ids: Tensor
    attention_mask: Tensor
    loss_weights: Tensor
    reply_kinds: Tensor
    is_plain: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def select(self, rows: Tensor) -> Batch:
        """Return the dialogues of the given rows, padded as they are."""
        return Batch(**{name: tensor[rows] for name, tensor in vars(self).items()})


def epoch_order(
    mixture: Mixture, lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Return one epoch's batches as lists of sample indices.

    The epoch's samples are shuffled, sorted by length within groups of ``GROUP`` batches, cut
    into batches, and the batches shuffled. The order follows from ``seed`` and ``epoch`` alone,
    so a resumed run finds its place by counting.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
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
    """
    lengths = [len(sample.ids) for sample in samples]
    per_epoch = -(-len(mixture) // batch_size)
    epoch, done = divmod(skip, per_epoch)
    number = skip
    while True:
        order = epoch_order(mixture, lengths, batch_size, seed=seed, epoch=epoch)
        for indices in order[done:]:
            if number % world_size == rank:
                yield collate([samples[index] for index in indices])
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
        is_plain=torch.tensor([not s.tasks for s in samples]),
    )
