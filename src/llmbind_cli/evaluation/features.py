"""A set of files → its features or their statistics, by way of the cache and of all processes.

What is in the cache is not decoded. The rest is decoded by threads while the network runs, batch by
batch, and each process takes its share. A figure depends neither on the batches nor on the number
of threads or processes, but for the last digits of float32, in which networks differ by batch size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        batch_size: Files that go through the network at once, ≥ 1.
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
        read: File → what the extractor takes; raises `InputDataError`.
        device: ``cpu`` or ``cuda``.
        settings: Of the extraction.
    """

    extractor: Extractor
    read: Callable[[Path], Any]
    device: str
    settings: ExtractionSettings

    def extract(self, media: MediaSet, faults: FaultList) -> Extracted:
        """Give the features of a set, in the order of its ids, in every process.

        Args:
            media: The files.
            faults: Takes up what cannot be read. After a fault there will be no score, and what is
                left to do is to find the others: the rows are then of no use.
        """
        items = list(media.files)
        own = processes.share(items)
        parts = list(self._blocks(media, own, faults))
        faults.exchange()
        if faults.faults:
            return Extracted(features=np.empty((0, 0)))
        rows = {name: np.concatenate([part[name] for part in parts]) for name in _common(parts)}
        return _together(processes.exchange(rows), len(items))

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
        for rows in self._blocks(media, processes.share(list(media.files)), faults):
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
            preprocessing=self.extractor.preprocessing,
            device=self.device,
        )

    def _blocks(self, media: MediaSet, items: Sequence[str], faults: FaultList) -> Iterator[Rows]:
        """Yield the rows of some ids block by block, in their order; nothing after a fault."""
        key, cache = self._key(), self.settings.cache
        with console.progress(total=len(items), desc=media.path, unit="file") as bar:
            for start in range(0, len(items), _BLOCK):
                block = items[start : start + _BLOCK]
                digests = [media.digests[item] for item in block]
                found, known = cache.read(key, digests) if cache else ([], {})
                bar.update(len(found))
                missing = sorted(set(range(len(block))) - set(found))
                # Files of the same content have the same features.
                first_of = {digests[place]: place for place in reversed(missing)}
                new = [place for place in missing if first_of[digests[place]] == place]
                fresh = self._extract([media.files[block[place]] for place in new], faults, bar)
                if faults.faults:
                    continue
                if cache:
                    cache.write(key, [digests[place] for place in new], fresh)
                row_of = {digests[place]: row for row, place in enumerate(new)}
                again = [row_of[digests[place]] for place in missing]
                filled = [(found, known), (missing, {n: a[again] for n, a in fresh.items()})]
                yield _assembled(len(block), filled)

    def _extract(self, paths: list[Path], faults: FaultList, bar: Any) -> Rows:
        parts: list[Rows] = []
        for batch in self._decoded(paths, faults):
            if not faults.faults:
                features, logits = self.extractor.extract(batch)
                parts.append(
                    {"features": features} | ({} if logits is None else {"logits": logits})
                )
            bar.update(len(batch))
        if faults.faults or not parts:
            return {}
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _decoded(self, paths: list[Path], faults: FaultList) -> Iterator[list[Any]]:
        """Yield batches of decoded files; the next batch is decoded meanwhile."""
        size = self.settings.batch_size
        with ThreadPoolExecutor(max_workers=self.settings.workers) as pool:
            ahead: deque[list[Future[Any]]] = deque()
            for start in range(0, len(paths), size):
                ahead.append([pool.submit(self.read, path) for path in paths[start : start + size]])
                if len(ahead) > 1:
                    yield _results(ahead.popleft(), faults)
            while ahead:
                yield _results(ahead.popleft(), faults)


def _results(futures: list[Future[Any]], faults: FaultList) -> list[Any]:
    decoded = []
    for future in futures:
        try:
            decoded.append(future.result())
        except InputDataError as error:
            faults.add(error)
    return decoded


def _common(parts: Sequence[Rows]) -> list[str]:
    """The arrays that all parts have; a cache of before may lack logits."""
    return sorted(set.intersection(*(set(part) for part in parts))) if parts else []


def _assembled(n: int, sides: Sequence[tuple[list[int], Rows]]) -> Rows:
    """Lay rows at their places: [n, width] for each array that all sides have."""
    filled = [(places, rows) for places, rows in sides if places]
    block: Rows = {}
    for name in _common([rows for _, rows in filled]):
        block[name] = np.empty((n, filled[0][1][name].shape[1]))
        for places, rows in filled:
            block[name][places] = rows[name]
    return block


def _together(parts: Sequence[Rows], n: int) -> Extracted:
    """Put the shares of all processes into the order of all items."""
    filled = [rows for rows in parts if rows]
    whole = {}
    for name in _common(filled):
        whole[name] = np.empty((n, filled[0][name].shape[1]))
        for rank, rows in enumerate(parts):
            if rows:
                whole[name][rank :: len(parts)] = rows[name]
    return Extracted(features=whole["features"], logits=whole.get("logits"))
