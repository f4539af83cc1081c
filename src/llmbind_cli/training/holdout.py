"""Dialogues kept out of training, and the loss on them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from llmbind_cli.data.batches import Collate, collate
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.errors import InputDataError
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.engine import Engine
from llmbind_cli.training.samples import TrainingData

Content = tuple[tuple[int, ...], tuple[str, ...]]


def content_of(sample: EncodedSample) -> Content:
    """Return what makes a dialogue the one it is: its ids, and the names of its pictures."""
    pictures = () if sample.sample is None else sample.sample.pictures
    return tuple(sample.ids), tuple(picture.key for picture in pictures)


def split_holdout(
    data: TrainingData, *, share: float, seed: int
) -> tuple[TrainingData, list[EncodedSample]]:
    """Set a share of each source apart.

    Dialogues of the same ids and pictures stay on one side, whichever source they come from: no
    dialogue that is held out is ever trained on.

    Args:
        data: All samples.
        share: Share of each source, in [0, 0.5]; 0 sets nothing apart.
        seed: Seed of the choice.

    Returns:
        The data to train on, and the dialogues held out.

    Raises:
        InputDataError: A source has nothing left to train on.
    """
    if share == 0:
        return data, []
    generator = torch.Generator().manual_seed(seed)
    held: set[Content] = set()
    start = 0
    for size in data.sizes:
        contents = list(dict.fromkeys(content_of(s) for s in data.samples[start : start + size]))
        order = torch.randperm(len(contents), generator=generator).tolist()
        held.update(contents[i] for i in order[: max(1, round(share * len(contents)))])
        start += size
    trained: list[EncodedSample] = []
    sizes = []
    start = 0
    for size, source in zip(data.sizes, data.sources, strict=True):
        kept = [s for s in data.samples[start : start + size] if content_of(s) not in held]
        if not kept:
            raise InputDataError(
                f"{source['name']}: train.holdout leaves nothing of this source to train on"
            )
        trained += kept
        sizes.append(len(kept))
        start += size
    apart = [sample for sample in data.samples if content_of(sample) in held]
    return dataclasses.replace(data, samples=trained, sizes=sizes), apart


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """What a model loses on the dialogues held out.

    Attributes:
        text: Mean cross-entropy over all ids, by their weights, in nats.
        mask: L_mask, meant over masks; ``None`` where there is none.
        total: L_reg + λ_mask L_mask (LLMBind Eq. 7), by which bundles are compared.
    """

    text: float
    mask: float | None
    total: float


class Holdout:
    """The dialogues held out, in batches that the processes share.

    Args:
        samples: At least one.
        batch_size: Dialogues in one forward pass.
        processes: The processes of the run.
        collated: Makes a batch of samples.
        mask_weight: λ_mask.
    """

    def __init__(
        self,
        samples: list[EncodedSample],
        *,
        batch_size: int,
        processes: Processes,
        collated: Collate = collate,
        mask_weight: float = 1.0,
    ) -> None:
        self._collated = collated
        self._mask_weight = mask_weight
        by_length = sorted(samples, key=lambda sample: len(sample.ids))
        self._batches = [
            by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)
        ]
        self._processes = processes

    def loss(self, engine: Engine) -> HeldOutLoss:
        """Measure the losses.

        Every process makes the same number of forward passes, which sharded weights need.
        """
        rank, size = self._processes.rank, self._processes.size
        sums = [0.0] * 4  # of the text loss and its weights, of the mask loss and its masks
        engine.train(False)
        with torch.no_grad():
            for start in range(0, len(self._batches), size):
                number = start + rank
                batch = self._collated(self._batches[number % len(self._batches)])
                losses = engine.losses(batch)
                if number >= len(self._batches):
                    continue
                weight = float(batch.loss_weights[:, 1:].sum())
                sums[0] += float(losses.text) * weight
                sums[1] += weight
                if batch.seen is not None and losses.mask is not None:
                    count = len(batch.seen.places)
                    sums[2] += float(losses.mask) * count
                    sums[3] += count
        engine.train(True)
        text, weight, mask, masks = self._processes.sums(sums)
        text /= weight
        if not masks:
            return HeldOutLoss(text=text, mask=None, total=text)
        mask /= masks
        return HeldOutLoss(text=text, mask=mask, total=text + self._mask_weight * mask)
