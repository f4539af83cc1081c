"""What every extractor of features gives, so that scores need not know which network it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from llmbind_cli.metrics.extractors.published import LocatedWeights

Array = np.ndarray[Any, Any]


class Extracted(NamedTuple):
    """What a network says of a batch.

    Attributes:
        features: float64, [B, D].
        logits: Of a classifier's classes, float64, [B, classes]; ``None`` where it has none.
    """

    features: Array
    logits: Array | None = None


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A sound as it was decoded.

    Attributes:
        samples: float32, [channels, n], nominally −1 to 1.
        sample_rate_hz: Samples a second and channel.
    """

    samples: Array
    sample_rate_hz: int


class Extractor(Protocol):
    """A frozen network that turns pictures or sounds into features.

    Attributes:
        weights: Name, source and hash of its weights, for the protocol card.
        preprocessing: The way from a file to its features, in words.
    """

    weights: LocatedWeights
    preprocessing: str

    def prepare(self, medium: Any) -> Any:
        """Bring a picture of mode ``RGB``, or a :class:`Sound`, to the network's frame, on the CPU.

        Threads that decode files call it, so that large pictures are let go of early.
        """
        ...

    def extract(self, prepared: Sequence[Any]) -> Extracted:
        """Turn pictures or sounds into features.

        Args:
            prepared: B results of :meth:`prepare`.

        Returns:
            A row for each. It does not depend on the others but for the last digits of float32.
        """
        ...
