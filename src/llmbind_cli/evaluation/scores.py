"""What a scoring gives: figures, what became of each item, and what the protocol card must tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmbind_cli.metrics.bootstrap import Interval, bootstrap_interval

if TYPE_CHECKING:
    from PIL.Image import Image


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


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What a page shows of an item: a picture, or words.

    Attributes:
        caption: What it is.
        picture: Of mode ``RGB`` or ``L``; ``None`` for words.
        words: The user's or the model's.
    """

    caption: str
    picture: Image | None = None
    words: str = ""


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
        ranked_by: Column of the items by which the worst and the best are shown, and whether more
            of it is better; ``None``: none are shown.
        show: Gives the panels of an item by its id.
    """

    scores: dict[str, Score]
    items: list[dict[str, Any]]
    preprocessing: str
    details: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, str] | None = None
    ranked_by: tuple[str, bool] | None = None
    show: Callable[[str], list[Panel]] | None = None


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
