"""Masks as their files describe them, decoded when they are asked for.

Every kind has the size of its picture and gives a mask in the frame of that picture as the viewer
sees it. What is only described here takes a few hundred bytes, so that all masks of a data set fit
into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.pictures import picture_size, read_labels
from llmbind_cli.data.polygons import fill_coco, fill_outlined
from llmbind_cli.data.rle import decode_runs, runs_from_text
from llmbind_cli.errors import InputDataError

Mask = NDArray[np.bool_]

_MOST_PIXELS = 1 << 28
_FEWEST_CORNERS = 3


class MaskSource(Protocol):
    """A mask that can be decoded."""

    def decode(self) -> Mask:
        """Return [H, W] bool."""
        ...


@dataclass(frozen=True, slots=True)
class PolygonMask:
    """The union of polygons, filled by COCO's rule.

    Overlaps count once. Deviation: LISA sums the polygons, so that an overlap gets the target 2
    (dvlab-research/LISA 3cb2d43, ``utils/refer_seg_dataset.py``).

    Attributes:
        polygons: Each [P, 2] float64, x and y in pixels.
        height: H.
        width: W.
    """

    polygons: tuple[NDArray[np.float64], ...]
    height: int
    width: int

    def decode(self) -> Mask:
        """Return [H, W] bool."""
        mask = np.zeros((self.height, self.width), np.bool_)
        for polygon in self.polygons:
            mask |= fill_coco(polygon, self.height, self.width)
        return mask


@dataclass(frozen=True, slots=True)
class RleMask:
    """Run-length encoded.

    Attributes:
        runs: Lengths of the runs down the columns, background first.
        height: H.
        width: W.
    """

    runs: tuple[int, ...]
    height: int
    width: int

    def decode(self) -> Mask:
        """Return [H, W] bool."""
        return decode_runs(self.runs, self.height, self.width)


@dataclass(frozen=True, slots=True)
class UnionMask:
    """What any of several masks covers.

    Attributes:
        masks: At least one; all of one size.
    """

    masks: tuple[MaskSource, ...]

    def decode(self) -> Mask:
        """Return [H, W] bool."""
        united: Mask = np.logical_or.reduce([mask.decode() for mask in self.masks])
        return united


@dataclass(frozen=True, slots=True)
class LabelMask:
    """The pixels of a label picture that have one of some values.

    Attributes:
        path: A picture of one channel.
        values: The values that count.
    """

    path: Path
    values: frozenset[int]

    def decode(self) -> Mask:
        """Return [H, W] bool.

        Raises:
            InputDataError: The file is missing, damaged or has colours.
        """
        chosen: Mask = np.isin(read_labels(self.path), list(self.values))
        return chosen


@dataclass(frozen=True, slots=True)
class PaintedMask:
    """What of painted layers is left to be seen, by ReasonSeg's rule: the largest is painted first.

    Layers of one size are painted last to first, as LISA's sort leaves them (dvlab-research/LISA
    3cb2d43, ``utils/data_processing.py``).

    Attributes:
        layers: Corners [P, 2] float64 in pixels, and the label that the polygon is painted with.
        picture: The picture, whose size the mask has.
        label: The label whose pixels are wanted.
    """

    layers: tuple[tuple[NDArray[np.float64], int], ...]
    picture: Path
    label: int

    def decode(self) -> Mask:
        """Return [H, W] bool.

        Raises:
            InputDataError: The picture cannot be read.
        """
        height, width = picture_size(self.picture)
        painted = np.zeros((height, width), np.uint8)
        filled = [(fill_outlined(points, height, width), label) for points, label in self.layers]
        for mask, label in sorted(filled, key=lambda layer: int(layer[0].sum()))[::-1]:
            painted[mask] = label
        wanted: Mask = painted == self.label
        return wanted


def read_segmentation(value: Any, height: int, width: int, where: str) -> MaskSource | None:
    """Read COCO's ``segmentation``: polygons, RLE, or a list of RLE as refCLEF has them.

    Args:
        value: What the file holds.
        height: H of the picture.
        width: W of the picture.
        where: File and record, for messages.

    Returns:
        The mask, not yet decoded; ``None`` where the list is empty.

    Raises:
        InputDataError: It is none of these, is of another size, or its runs do not add up.
    """
    if isinstance(value, dict):
        return _rle(value, height, width, where)
    if not isinstance(value, list):
        raise InputDataError(f"{where}: 'segmentation' must be polygons or RLE, got {value!r:.60}")
    if not value:
        return None
    if all(isinstance(part, dict) for part in value):
        parts = tuple(_rle(part, height, width, where) for part in value)
        return parts[0] if len(parts) == 1 else UnionMask(parts)
    polygons = tuple(
        polygon_points(part, f"{where}: polygon {number}") for number, part in enumerate(value)
    )
    return PolygonMask(polygons, height, width)


def polygon_points(value: Any, where: str) -> NDArray[np.float64]:
    """Read ``[x1, y1, x2, y2, …]``.

    Returns:
        [P, 2] float64.

    Raises:
        InputDataError: It is no such list, has fewer than 3 corners, or a number is not finite.
    """
    if not isinstance(value, list) or len(value) % 2 or len(value) < 2 * _FEWEST_CORNERS:
        raise InputDataError(f"{where}: must be [x1, y1, x2, y2, x3, y3, …], got {value!r:.60}")
    return finite_points(value, where).reshape(-1, 2)


def finite_points(values: Sequence[Any], where: str) -> NDArray[np.float64]:
    """Return numbers as an array.

    Raises:
        InputDataError: One is no number, is not finite, or is far outside of any picture.
    """
    try:
        points = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputDataError(f"{where}: coordinates must be numbers, got {values!r:.60}") from None
    if not np.isfinite(points).all() or (np.abs(points) > 1e6).any():
        raise InputDataError(f"{where}: a coordinate lies outside of any picture")
    return points


def _rle(value: Any, height: int, width: int, where: str) -> RleMask:
    size, counts = value.get("size"), value.get("counts")
    if size != [height, width]:
        raise InputDataError(
            f"{where}: the RLE has the size {size!r:.40}, its picture [{height}, {width}]"
        )
    try:
        runs = runs_from_text(counts) if isinstance(counts, str) else list(counts)
        if not all(isinstance(run, int) and run >= 0 for run in runs):
            raise ValueError("runs must be whole numbers ≥ 0")
        if height * width > _MOST_PIXELS or sum(runs) != height * width:
            raise ValueError(f"the runs add up to {sum(runs)}, not to {height} × {width}")
    except (TypeError, ValueError) as error:
        raise InputDataError(f"{where}: broken RLE: {error}") from None
    return RleMask(tuple(runs), height, width)
