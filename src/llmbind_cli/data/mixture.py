"""Which samples an epoch holds, so that the sources' proportions are exact.

LISA and LLMBind draw each sample's source at random (dvlab-research/LISA ``utils/dataset.py``), so
that the proportions hold on average only. Here an epoch has a fixed number of samples of each
source, and a source gives all of its samples before it gives one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch


class Mixture:
    """Sources of samples and their proportions.

    Args:
        sizes: Number of samples of each source, ≥ 1; the samples are numbered through.
        weights: Relative shares of the sources in an epoch, > 0; ``None`` takes every sample once.
        seed: Seed of the order within each source, ≥ 0.

    Raises:
        ValueError: A size or weight is out of range, or there is not one weight for each source.
    """

    def __init__(self, *, sizes: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes must be ≥ 1, got {list(sizes)}")
        if weights is not None and (len(weights) != len(sizes) or min(weights) <= 0):
            raise ValueError(f"weights must be > 0 and {len(sizes)}, got {list(weights)}")
        self._sizes = tuple(sizes)
        self._starts = (0, *accumulate(sizes))
        self._seed = seed
        self.counts = self._sizes if weights is None else _counts(sizes, weights)

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return sum(self.counts)

    def epoch(self, epoch: int) -> list[int]:
        """Return the numbers of an epoch's samples, source after source.

        Source ``i`` is an endless row of shuffled passes over its samples, of which each epoch
        takes the next ``counts[i]``. What an epoch holds follows from its number alone.
        """
        numbers: list[int] = []
        for source, (size, count) in enumerate(zip(self._sizes, self.counts, strict=True)):
            first = epoch * count
            for turn in range(first // size, (first + count - 1) // size + 1):
                order = self._shuffled(source, turn)
                begin, end = max(first - turn * size, 0), min(first + count - turn * size, size)
                numbers += [self._starts[source] + index for index in order[begin:end]]
        return numbers

    def _shuffled(self, source: int, turn: int) -> list[int]:
        generator = torch.Generator().manual_seed(
            ((self._seed * 1_000_003 + source) * 1_000_003 + turn) % 2**64
        )
        order: list[int] = torch.randperm(self._sizes[source], generator=generator).tolist()
        return order


def _counts(sizes: Sequence[int], weights: Sequence[float]) -> tuple[int, ...]:
    """Return how many samples each source gives to an epoch.

    The epoch is the shortest in which each source gives all its samples at least once. Shares
    that are no whole numbers are rounded so that they sum up (largest remainder).
    """
    total = sum(weights)
    length = round(max(size * total / weight for size, weight in zip(sizes, weights, strict=True)))
    shares = [length * weight / total for weight in weights]
    counts = [int(share) for share in shares]
    rest = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for index in rest[: length - sum(counts)]:
        counts[index] += 1
    return tuple(counts)
