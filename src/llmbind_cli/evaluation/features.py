"""A set of files → its features or their statistics, by way of the cache and of all processes.

A picture is one sample, as a rule; a clip or a sound may be many, its frames or patches.

What is in the cache is not decoded. The rest is decoded by threads while the network runs, batch by
batch, and each process takes its share. A figure depends neither on the batches nor on the number
of threads or processes, but for the last digits of float32, in which networks differ by batch size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation import processes
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.feature_cache import FeatureCache, Rows, cache_key
from llmbind_cli.evaluation.media_set import MediaSet
from llmbind_cli.metrics.extractors.extractor import Extracted, Extractor
from llmbind_cli.metrics.feature_statistics import FeatureStatistics

Array = np.ndarray[Any, Any]

BATCH_SIZE = 32
_BLOCK = 1024
"""Files whose features are looked up, extracted and kept at once."""


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How features are extracted; no figure depends on it.

    Attributes:
        batch_size: Samples that go through the network at once, ≥ 1.
        workers: Threads that decode files, ≥ 1.
        cache: Where features are kept; ``None``: nowhere.
    """

    batch_size: int = BATCH_SIZE
    workers: int = 1
    cache: FeatureCache | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """An extractor, and how it gets at files.

    Attributes:
        extractor: The network.
        read: File → its samples, each as the extractor takes it; raises `InputDataError`.
        preprocessing: The way from a file to its features, in words.
        device: ``cpu`` or ``cuda``.
        settings: Of the extraction.
        parts: What the samples of a file are called, such as ``frames``; ``None``: it is one.
        samples_per_file: How many a file is, about.
        parameters: Of the reading, for the protocol card.
    """

    extractor: Extractor
    read: Callable[[Path], Sequence[Any]]
    preprocessing: str
    device: str
    settings: ExtractionSettings
    parts: str | None = None
    samples_per_file: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def extract(self, media: MediaSet, faults: FaultList) -> Extracted:
        """Give the features of a set, a row for each sample in the order of the ids, everywhere.

        Args:
            media: The files.
            faults: Takes up what cannot be read. After a fault there will be no score, and what is
                left to do is to find the others: the rows are then of no use.
        """
        blocks = list(self._blocks(media, processes.share(list(media.files)), faults))
        faults.exchange()
        if faults.faults:
            return Extracted(features=np.empty((0, 0)))
        shares = processes.exchange(_joined(blocks) if blocks else None)
        # Item k of all is item k // P of process k % P.
        placed = [
            _Samples(share.places * len(shares) + rank, share.rows)
            for rank, share in enumerate(shares)
            if share is not None
        ]
        rows = _joined(placed).rows
        return Extracted(features=rows["features"], logits=rows.get("logits"))

    def kept_statistics(self, media: MediaSet) -> FeatureStatistics | None:
        """Give mean and covariance of a set where every process finds them in the cache."""
        cache = self.settings.cache
        kept = cache.read_statistics(self._key(), media.digests) if cache else None
        return kept if None not in processes.exchange(kept and kept.n) else None

    def keep_statistics(self, media: MediaSet, statistics: FeatureStatistics) -> None:
        """Put mean and covariance of a set into the cache."""
        if self.settings.cache and processes.is_first():
            self.settings.cache.write_statistics(self._key(), media.digests, statistics)

    def statistics(self, media: MediaSet, faults: FaultList) -> FeatureStatistics:
        """Give mean and covariance of a set in one pass; no more than a block is held in memory.

        Args:
            media: The files.
            faults: As for :meth:`extract`.
        """
        if (kept := self.kept_statistics(media)) is not None:
            return kept
        own: FeatureStatistics | None = None
        for _, rows in self._blocks(media, processes.share(list(media.files)), faults):
            own = own or FeatureStatistics(width=rows["features"].shape[1])
            own.update(rows["features"])
        faults.exchange()
        parts = [part for part in processes.exchange(own) if part is not None]
        if faults.faults or not parts:
            return FeatureStatistics(width=1)
        total = parts[0]
        for part in parts[1:]:
            total.merge(part)
        self.keep_statistics(media, total)
        return total

    def _key(self) -> str:
        return cache_key(
            weights_sha256=self.extractor.weights.sha256,
            preprocessing=self.preprocessing,
            device=self.device,
        )

    def _blocks(
        self, media: MediaSet, items: Sequence[str], faults: FaultList
    ) -> Iterator[_Samples]:
        """Yield the samples of some ids block by block, in their order; nothing after a fault."""
        key, cache = self._key(), self.settings.cache
        with console.progress(total=len(items), desc=media.path, unit="file") as bar:
            for start in range(0, len(items), _BLOCK):
                block = items[start : start + _BLOCK]
                digests = [media.digests[item] for item in block]
                known = _Samples(*cache.read(key, digests)) if cache else _NONE
                missing = sorted(set(range(len(block))) - set(known.places.tolist()))
                bar.update(len(block) - len(missing))
                # Files of the same content have the same features.
                first_of = {digests[place]: place for place in reversed(missing)}
                new = np.array([place for place in missing if first_of[digests[place]] == place])
                fresh = self._extract([media.files[block[place]] for place in new], faults, bar)
                if faults.faults:
                    continue
                if len(new):
                    fresh = _Samples(new[fresh.places], fresh.rows)
                    if cache:
                        cache.write(key, [digests[place] for place in fresh.places], fresh.rows)
                copies = [
                    fresh.of(first_of[digests[place]], place)
                    for place in missing
                    if first_of[digests[place]] != place
                ]
                at, rows = _joined([known, fresh, *copies])
                yield _Samples(at + start, rows)

    def _extract(self, paths: list[Path], faults: FaultList, bar: Any) -> _Samples:
        """Put files through the network; the places are those in ``paths``."""
        parts: list[_Samples] = []
        first = 0
        for files in self._decoded(paths, faults):
            if not faults.faults:
                samples = list(chain.from_iterable(files))
                places = np.repeat(np.arange(first, first + len(files)), [len(f) for f in files])
                for start in range(0, len(samples), self.settings.batch_size):
                    part = slice(start, start + self.settings.batch_size)
                    features, logits = self.extractor.extract(samples[part])
                    rows = {"features": features} | ({} if logits is None else {"logits": logits})
                    parts.append(_Samples(places[part], rows))
            first += len(files)
            bar.update(len(files))
        return _joined(parts) if parts and not faults.faults else _NONE

    def _decoded(self, paths: list[Path], faults: FaultList) -> Iterator[list[Sequence[Any]]]:
        """Yield the samples of some files at a time; those of the next are decoded meanwhile."""
        size = max(1, self.settings.batch_size // self.samples_per_file)
        with ThreadPoolExecutor(max_workers=self.settings.workers) as pool:
            ahead: deque[list[Future[Any]]] = deque()
            for start in range(0, len(paths), size):
                ahead.append([pool.submit(self.read, path) for path in paths[start : start + size]])
                if len(ahead) > 1:
                    yield _results(ahead.popleft(), faults)
            while ahead:
                yield _results(ahead.popleft(), faults)


class _Samples(NamedTuple):
    """Samples of files.

    Attributes:
        places: The file's place of each sample, [S].
        rows: Name → [S, width].
    """

    places: Array
    rows: Rows

    def of(self, place: int, copy: int) -> _Samples:
        """Give the samples of one file as those of another of the same content."""
        chosen = np.flatnonzero(self.places == place)
        rows = {name: array[chosen] for name, array in self.rows.items()}
        return _Samples(np.full(len(chosen), copy), rows)


_NONE = _Samples(np.empty(0, dtype=np.int64), {})


def _joined(parts: Sequence[_Samples]) -> _Samples:
    """Put samples together in the order of their files; a file's own keep their order.

    An array that some lack, such as logits in a cache of before, is left out.
    """
    filled = [part for part in parts if len(part.places)]
    places = np.concatenate([part.places for part in filled])
    order = np.argsort(places, kind="stable")
    names = sorted(set.intersection(*(set(part.rows) for part in filled)))
    rows = {name: np.concatenate([part.rows[name] for part in filled])[order] for name in names}
    return _Samples(places[order], rows)


def _results(futures: list[Future[Any]], faults: FaultList) -> list[Sequence[Any]]:
    decoded = []
    for future in futures:
        try:
            decoded.append(future.result())
        except InputDataError as error:
            faults.add(error)
    return decoded
