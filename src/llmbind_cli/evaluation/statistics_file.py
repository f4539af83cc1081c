"""References as statistics of their features: a ``.npz`` as pytorch-fid and llmbind write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmbind_cli.errors import InputDataError
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.metrics.feature_statistics import StoredStatistics, read_statistics
from llmbind_cli.weights.hashes import sha256_file

SUFFIX = ".npz"


@dataclass(frozen=True, kw_only=True)
class StatisticsFile:
    """Statistics in the place of references.

    Attributes:
        path: The file as the user named it.
        sha256: Its hash.
        stored: What it holds.
    """

    path: str
    sha256: str
    stored: StoredStatistics

    @property
    def n(self) -> int | None:
        """Number of samples, where the file tells it."""
        return self.stored.n

    def require_features(self, weights: LocatedWeights, preprocessing: str) -> None:
        """Refuse statistics that say that they are another network's or preprocessing's.

        Raises:
            InputDataError: They are; what differs is named. Files that do not say pass.
        """
        wanted = {"sha256": weights.sha256, "preprocessing": preprocessing}
        for name, expected in wanted.items():
            found = self.stored.extractor.get(name, expected)
            if found != expected:
                raise InputDataError(
                    f"{self.path}: are statistics of other features: {name} is {found}, and "
                    f"{weights.name} has {expected}"
                )

    def require_width(self, width: int) -> None:
        """Refuse statistics of another number of features.

        Raises:
            InputDataError: They are.
        """
        if len(self.stored.mean) != width:
            raise InputDataError(
                f"{self.path}: are statistics of {len(self.stored.mean)} features, and the "
                f"network gives {width}"
            )


def read_statistics_file(path: Path) -> StatisticsFile:
    """Read statistics and hash their file.

    Raises:
        InputDataError: It is missing or holds no statistics.
    """
    stored = read_statistics(path)
    return StatisticsFile(path=str(path), sha256=sha256_file(path), stored=stored)
