"""How figures follow from ``items.jsonl``: each is a quotient of two sums over the items.

A metric that is not named here is the mean of the column of its name, where the items have one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmbind_cli.errors import InputDataError

ITEMS = "items.jsonl"

Row = Mapping[str, Any]
Part = tuple[float, float]
"""What an item adds to the numerator and to the denominator."""


class ItemQuotient(NamedTuple):
    """A figure, item by item.

    Attributes:
        ids: Of the items.
        tops: What each adds to the numerator.
        bottoms: What each adds to the denominator.
    """

    ids: list[str]
    tops: list[float]
    bottoms: list[float]

    @property
    def value(self) -> float:
        """The figure; 1 where the denominators add up to 0, as overlaps have it."""
        bottom = sum(self.bottoms)
        return sum(self.tops) / bottom if bottom else 1.0


def read_items(report: Path) -> list[dict[str, Any]] | None:
    """Read the items that stand beside a report; ``None`` where there are none.

    Raises:
        InputDataError: A line is broken.
    """
    path = report.with_name(ITEMS)
    if not path.is_file():
        return None
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputDataError(f"{path}:{number}: is no JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise InputDataError(f"{path}:{number}: is no item")
        rows.append(row)
    return rows


def item_quotient(
    rows: Sequence[Row], *, scoring: str | None, family: str, metric: str
) -> ItemQuotient | None:
    """Take a figure apart into its items.

    Args:
        rows: Of ``items.jsonl``.
        scoring: Name of the scoring, or ``None``.
        family: Of the metric.
        metric: Its name.

    Returns:
        The items in the order of their ids, or ``None`` where the figure is none of items.

    Raises:
        InputDataError: A row lacks what its family has.
    """
    own = [row for row in rows if (row.get("scoring"), row.get("family")) == (scoring, family)]
    part = _part_of(metric)
    parts: dict[str, Part] = {}
    for row in own:
        try:
            found = part(row)
        except (KeyError, TypeError) as error:
            raise InputDataError(f"{ITEMS}: {row['id']} has no {error} for {metric}") from error
        if found is not None:
            parts[row["id"]] = found
    if not parts:
        return None
    ids = sorted(parts)
    return ItemQuotient(
        ids=ids,
        tops=[parts[item][0] for item in ids],
        bottoms=[parts[item][1] for item in ids],
    )


def _part_of(metric: str) -> Callable[[Row], Part | None]:
    if metric in _PARTS:
        return _PARTS[metric]
    if metric.startswith("precision@"):
        bound = float(metric.removeprefix("precision@"))
        return lambda row: (float(row["iou"] >= bound), 1.0)

    def column(row: Row) -> Part | None:
        value = row.get(metric)
        return (float(value), 1.0) if isinstance(value, bool | int | float) else None

    return column


def _where(condition: bool, value: Any) -> Part | None:
    return (float(value), 1.0) if condition else None


_PARTS: dict[str, Callable[[Row], Part | None]] = {
    "cIoU": lambda row: (
        float(row["intersection"]),
        float(row["union"]) + float(row.get("union_added", 0)),
    ),
    "gIoU": lambda row: (float(row["iou"]), 1.0),
    "emission_rate": lambda row: _where(row["expected"], row["emitted"]),
    "false_emission_rate": lambda row: _where(not row["expected"], row["emitted"]),
    "exact_match": lambda row: (float(row["right"]), 1.0),
    "routing": lambda row: (float(row["expected"] == row["got"]), 1.0),
    "false_calls": lambda row: _where(row["expected"] == "text", row["got"] != "text"),
    "words_kept": lambda row: (float(sum(row["words_kept"])), float(sum(row["words_asked"]))),
    "prompts_whole": lambda row: (
        float(sum(k == a for k, a in zip(row["words_kept"], row["words_asked"], strict=True))),
        float(len(row["words_asked"])),
    ),
}
