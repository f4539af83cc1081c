"""Mean and covariance of features in one pass, in float64; parts of a set can be merged.

The update of a mean and a scatter matrix by a batch is that of Chan, Golub and LeVeque (1983),
which does not subtract large numbers. Files are those of pytorch-fid: ``mu`` and ``sigma``.

Notation: n samples, D features, μ their mean, S = Σ (x − μ)(x − μ)ᵀ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from llmbind_cli.errors import InputDataError
from llmbind_cli.weights.atomic import write_atomically

Array = np.ndarray[Any, Any]

_EXTRACTOR = "extractor_"
"""Before the names of the texts in a file that say how the features came about."""


class FeatureStatistics:
    """Running statistics of features.

    Args:
        width: D, at least 1.

    Attributes:
        n: Samples so far.
        mean: μ, float64, [D].
        scatter: S, float64, [D, D].
    """

    def __init__(self, *, width: int) -> None:
        if width < 1:
            raise ValueError(f"width must be ≥ 1, got {width}")
        self.n = 0
        self.mean: Array = np.zeros(width)
        self.scatter: Array = np.zeros((width, width))

    @property
    def covariance(self) -> Array:
        """S / (n − 1), [D, D].

        Raises:
            ValueError: There are fewer than two samples.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.n}")
        covariance: Array = self.scatter / (self.n - 1)
        return covariance

    def update(self, features: Any) -> Self:
        """Take in a batch.

        Args:
            features: [B, D], a numpy array or a torch tensor on the CPU; B may be 0.

        Returns:
            Itself.

        Raises:
            ValueError: The width is another, or a value is not finite.
        """
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != len(self.mean):
            raise ValueError(f"features must be [B, {len(self.mean)}], got {batch.shape}")
        if not np.isfinite(batch).all():
            raise ValueError("features hold NaN or infinity")
        if len(batch):
            mean = batch.mean(axis=0)
            centred = batch - mean
            self._take(len(batch), mean, centred.T @ centred)
        return self

    def merge(self, other: Self) -> Self:
        """Take in the statistics of other samples, such as another process's.

        Returns:
            Itself.

        Raises:
            ValueError: The widths differ.
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"widths differ: {len(self.mean)} and {len(other.mean)}")
        if other.n:
            self._take(other.n, other.mean, other.scatter)
        return self

    def _take(self, n: int, mean: Array, scatter: Array) -> None:
        total = self.n + n
        shift = mean - self.mean
        # Chan, Golub and LeVeque (1983), Eq. (2.1)
        self.scatter = self.scatter + scatter + np.outer(shift, shift) * (self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total


class StoredStatistics(NamedTuple):
    """Statistics of a file.

    Attributes:
        mean: [D], float64.
        covariance: [D, D], float64.
        n: Number of samples, where the file tells it; pytorch-fid's do not.
        extractor: How the features came about (``sha256`` of the weights, ``preprocessing``), where
            the file tells it; else empty.
    """

    mean: Array
    covariance: Array
    n: int | None
    extractor: dict[str, str]


def write_statistics(
    path: Path, statistics: FeatureStatistics, *, extractor: Mapping[str, str] | None = None
) -> None:
    """Write a file that pytorch-fid reads: ``mu`` and ``sigma``, and the count as ``n`` beside.

    Args:
        path: ``.npz``; its folder must exist.
        statistics: Of at least two samples.
        extractor: How the features came about, as texts; they are kept in the file.

    Raises:
        ValueError: There are fewer than two samples.
        OutputError: The file cannot be written.
        StorageError: The disk is full or failing.
    """
    arrays: dict[str, Any] = {
        "mu": statistics.mean,
        "sigma": statistics.covariance,
        "n": np.int64(statistics.n),
    }
    for name, text in (extractor or {}).items():
        arrays[f"{_EXTRACTOR}{name}"] = np.array(text)
    write_atomically(path, lambda stream: np.savez(stream, **arrays))


def read_statistics(path: Path) -> StoredStatistics:
    """Read statistics that llmbind or pytorch-fid wrote. Pickled content is refused.

    Args:
        path: ``.npz``.

    Raises:
        InputDataError: It cannot be read, or the arrays are missing, do not fit, or are not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            mean = np.asarray(content["mu"], dtype=np.float64)
            covariance = np.asarray(content["sigma"], dtype=np.float64)
            n = int(content["n"]) if "n" in content else None
            extractor = {
                name.removeprefix(_EXTRACTOR): str(content[name])
                for name in content.files
                if name.startswith(_EXTRACTOR)
            }
    except Exception as error:  # a damaged archive raises nearly anything
        raise InputDataError(f"{path}: no statistics of features (mu, sigma): {error}") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputDataError(
            f"{path}: mu must be [D] and sigma [D, D], got {mean.shape} and {covariance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputDataError(f"{path}: mu or sigma holds NaN or infinity")
    return StoredStatistics(mean=mean, covariance=covariance, n=n, extractor=extractor)
