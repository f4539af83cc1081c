"""How many different word sequences a set of texts holds: the usual measure of repetition.

Distinct-n is the number of different n-grams over the number of all (Li et al., arXiv 1510.03055).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PORTION = 500_000
"""Words that are counted together; the more, the faster and the larger."""

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15))

_Codes = NDArray[np.uint64]


class DistinctNgrams:
    """Counts the different n-grams of lines of words.

    An n-gram is kept as 64 bits of hash in sorted arrays, 8 to 16 bytes for each different one.
    The counts are exact but for collisions, of which 10 million n-grams have 3e-6 on average.

    Args:
        longest: Largest n, ≥ 1.
    """

    def __init__(self, *, longest: int) -> None:
        if longest < 1:
            raise ValueError(f"longest must be ≥ 1, got {longest}")
        self._totals = [0] * longest
        self._sorted: list[_Codes] = [np.empty(0, np.uint64) for _ in range(longest)]
        self._waiting: list[list[_Codes]] = [[] for _ in range(longest)]
        self._numbers: dict[str, int] = {}
        self._words: list[int] = []
        self._lengths: list[int] = []

    def add(self, words: Sequence[str]) -> None:
        """Count one line; n-grams never reach into the next one."""
        numbers = self._numbers
        self._words += [numbers.setdefault(word, len(numbers)) for word in words]
        self._lengths.append(len(words))
        if len(self._words) >= _PORTION:
            self._count()

    def counts(self) -> list[tuple[int, int]]:
        """Return for each n, from 1 on, the number of different n-grams and of all."""
        self._count()
        for n in range(len(self._totals)):
            self._merge(n)
        return [(len(codes), n) for codes, n in zip(self._sorted, self._totals, strict=True)]

    def _count(self) -> None:
        lengths = np.array(self._lengths, dtype=np.int64)
        words = _scrambled(np.array(self._words, dtype=np.uint64))
        # Words from each place to the end of its line.
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))
        self._words, self._lengths = [], []
        codes = words
        for n in range(len(self._totals)):
            if n:
                codes = _scrambled(codes[:-1] + _MIX[2]) ^ words[n:]
            whole = codes[left[: len(codes)] > n]
            self._totals[n] += len(whole)
            self._waiting[n].append(np.unique(whole))
            # Merging costs as much as what is there already, so it waits for as much again.
            if sum(map(len, self._waiting[n])) > max(_PORTION, len(self._sorted[n])):
                self._merge(n)

    def _merge(self, n: int) -> None:
        self._sorted[n] = np.unique(np.concatenate([self._sorted[n], *self._waiting[n]]))
        self._waiting[n] = []


def _scrambled(numbers: _Codes) -> _Codes:
    """Spread numbers over 64 bits, one to one (the finaliser of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIX[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIX[1]
    return numbers ^ (numbers >> np.uint64(31))
