"""What a scoring gives: figures, what became of each item, and what the protocol card must tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmbind_cli.metrics.bootstrap import Interval, bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure.

    Attributes:
        value: The figure; may be infinite.
        n: Items that it was taken over; of a distance, the smaller of both sets.
        interval: Bootstrap bounds, where the figure is a mean over items.
        std: Spread over subsets, where it is a mean over subsets.
        notes: What a reader must know to read it right.
    """

    value: float
    n: int
    interval: Interval | None = None
    std: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class FamilyScores:
    """The figures of one pass over the inputs.

    Attributes:
        scores: Metric name → figure.
        items: A row for each item, by which the figures can be taken again.
        details: What is no figure, such as a confusion table.
        parameters: Settings that the figures depend on.
        preprocessing: What was done to each file before it was scored.
        backbone: Name, source and hash of the network; ``None`` without one.
    """

    scores: dict[str, Score]
    items: list[dict[str, Any]]
    preprocessing: str
    details: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, str] | None = None


def interval_of(
    numerators: Sequence[float], denominators: Sequence[float] | None = None, *, seed: int
) -> Interval | None:
    """Bound a mean or quotient as the bootstrap does; ``None`` for one item, which tells nothing.

    Args:
        numerators: A figure of each item.
        denominators: What their sum is divided by, for each item; ones if not given.
        seed: Of the draws.
    """
    if len(numerators) < 2:
        return None
    return bootstrap_interval(numerators, denominators, seed=seed)
