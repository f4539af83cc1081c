"""Filled polygons, pixel for pixel as the tools fill them that the data sets were scored with.

There are two rules. COCO's fills what lies inside, on a grid five times as fine
(cocodataset/cocoapi 8c9bcc3, ``rleFrPoly``). ReasonSeg's joins whole pixels with lines and fills
them, lines included: OpenCV's ``polylines`` and ``fillPoly``. Tests compare with both packages.
Deviation: OpenCV bends a side that leaves the picture where it clips it; here it stays straight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""[P, 2], x and y in pixels from the picture's upper left corner."""

Mask = NDArray[np.bool_]
_Integers = NDArray[np.int64]

_FINE = 5
"""Steps a pixel of COCO's grid."""


def fill_coco(points: Points, height: int, width: int) -> Mask:
    """Fill a polygon by COCO's rule.

    Args:
        points: [P, 2] with P ≥ 3; the last one joins the first. It may cross itself: what is
            inside an even number of times is outside.
        height: H in pixels.
        width: W in pixels.

    Returns:
        [H, W] bool.
    """
    across, down = _fine_outline(points)
    # Each step to another column of the fine grid may cross the middle of a column of pixels.
    before, after = across[:-1], across[1:]
    column = np.where(after < before, after, after - 1)
    crossed = (after != before) & (column % _FINE == _FINE // 2)
    column = (column - _FINE // 2) // _FINE
    crossed &= (column >= 0) & (column < width)
    row = (np.minimum(down[:-1], down[1:]) + 0.5) / _FINE - 0.5
    row = np.ceil(np.clip(row, 0, height)).astype(np.int64)
    # Down each column, every crossing turns what follows inside out.
    places = column[crossed] * height + row[crossed]
    turns = np.bincount(places, minlength=height * width + 1)[: height * width]
    inside: Mask = np.cumsum(turns) % 2 == 1
    return inside.reshape(width, height).T


def _fine_outline(points: Points) -> tuple[_Integers, _Integers]:
    """Return the outline on the fine grid, one step of the longer axis after the other."""
    corners = np.trunc(_FINE * np.asarray(points, np.float64) + 0.5).astype(np.int64)
    start, stop = corners, np.roll(corners, -1, axis=0)
    reach = np.abs(stop - start)
    steps = reach.max(axis=1)
    flat = reach[:, 0] >= reach[:, 1]
    major = np.where(flat, 0, 1)
    rows = np.arange(len(corners))
    # A side is always walked from its smaller end, and read backward where it runs the other way.
    back = start[rows, major] > stop[rows, major]
    low = np.where(back[:, None], stop, start)
    high = np.where(back[:, None], start, stop)
    slope = (high - low)[rows, 1 - major] / np.maximum(steps, 1)
    side = np.repeat(rows, steps + 1)
    first = np.concatenate([[0], np.cumsum(steps + 1)[:-1]])
    step = np.arange(len(side)) - first[side]
    step = np.where(back[side], steps[side] - step, step)
    along = low[rows, major][side] + step
    minor = np.trunc(low[rows, 1 - major][side] + slope[side] * step + 0.5).astype(np.int64)
    is_flat = flat[side]
    return np.where(is_flat, along, minor), np.where(is_flat, minor, along)


def fill_outlined(points: Points, height: int, width: int) -> Mask:
    """Fill a polygon by ReasonSeg's rule: whole pixels, lines included.

    Args:
        points: [P, 2] with P ≥ 1; fractions are cut off.
        height: H in pixels.
        width: W in pixels.

    Returns:
        [H, W] bool.
    """
    corners = np.trunc(np.asarray(points, np.float64)).astype(np.int64)
    mask = np.zeros((height, width), np.bool_)
    crossings: list[tuple[_Integers, _Integers, _Integers]] = []
    for start, stop in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        x, y = _line(start, stop)
        seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        mask[y[seen], x[seen]] = True
        (x0, y0), (x1, y1) = sorted((start, stop), key=lambda point: int(point[1]))
        rows = np.arange(y0, y1)
        moved = (rows - y0) * (x1 - x0)
        crossings.append((rows, x0 * (y1 - y0) + moved, np.full_like(rows, y1 - y0)))
    _fill_between(mask, *map(np.concatenate, zip(*crossings, strict=True)))
    return mask


def _fill_between(mask: Mask, rows: _Integers, places: _Integers, parts: _Integers) -> None:
    """Fill each row between its first and second crossing, its third and fourth, and so on.

    Args:
        mask: Changed in place.
        rows: The row of each crossing.
        places: x of each crossing, times its ``parts``.
        parts: Whole numbers that make exact fractions of the places.
    """
    order = np.lexsort((places / parts, rows))
    rows, places, parts = rows[order], places[order], parts[order]
    begins = np.maximum(-(-places // parts), 0)
    ends = places // parts + 1
    for row, begin, end in zip(rows[::2], begins[::2], ends[1::2], strict=True):
        if 0 <= row < mask.shape[0] and end > begin:
            mask[row, begin:end] = True


def _line(start: Any, stop: Any) -> tuple[_Integers, _Integers]:
    """Return x and y of the pixels of a line, walked from its left end (Bresenham 1965)."""
    if start[0] > stop[0]:
        start, stop = stop, start
    reach = np.abs(stop - start)
    steps = int(reach.max())
    major = 0 if reach[0] >= reach[1] else 1
    count = np.arange(steps + 1)
    shorter = int(reach[1 - major])
    # A step that would end halfway between two pixels stays on the nearer side of the start.
    moved = -((steps - 2 * shorter * count) // (2 * steps)) if steps else count * 0
    signs = np.sign(stop - start)
    axes = (count, moved) if major == 0 else (moved, count)
    return start[0] + signs[0] * axes[0], start[1] + signs[1] * axes[1]
