"""What stands before the background of a small picture, and which colour it has.

Backgrounds of the world change from top to bottom and hardly from left to right, so each row's
background is what is seen at the picture's two sides.

Notation: B pictures, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.scenes.colours import COLOURS, HUED, NAMES, classify, to_oklab

_DIFFERENT = 0.1
"""OKLab distance from the background from which a pixel belongs to a thing."""

_HUED_SHARE = 0.15
_GREY_SHARE = 0.3
"""Share of a thing in a colour from which it counts as having that colour; what a recoloured
drawing keeps of itself (eyes, leaves, outlines) is left the rest."""

_HUED_PLACES = [NAMES.index(name) for name in HUED]


def foreground(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell things from the background.

    Args:
        images: [B, H, W, 3] sRGB.

    Returns:
        [B, H, W], true where a thing is.
    """
    lab = to_oklab(images / np.float32(255))
    edge = max(1, images.shape[2] // 32)
    sides = np.concatenate([lab[:, :, :edge], lab[:, :, -edge:]], axis=2)
    rows = np.median(sides, axis=2)
    # A thing that touches one side moves that row's median: neighbouring rows outvote it.
    reach = images.shape[1] // 6
    padded = np.pad(rows, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)
    steady = np.median(around, axis=-1)
    distance = np.minimum(
        np.linalg.norm(lab - rows[:, :, None], axis=-1),
        np.linalg.norm(lab - steady[:, :, None], axis=-1),
    )
    return distance > _DIFFERENT


def tight_boxes(
    things: NDArray[np.bool_], windows: NDArray[np.floating], *, margin: float = 0.06
) -> NDArray[np.float32]:
    """Shrink windows to squares around what stands in them.

    Args:
        things: [B, H, W], from `foreground`.
        windows: [B, 4]: left, top, right, bottom, 0 to 1.
        margin: Room around the thing, as a share of the picture's side.

    Returns:
        [B, 4], inside the picture; a window that is empty or whole stays as it is.
    """
    height, width = things.shape[1:]
    boxes = np.asarray(windows, np.float32).copy()
    for seen, box in zip(things, boxes, strict=True):
        left, top, right, bottom = np.rint(box * (width, height, width, height)).astype(int)
        part = seen[top:bottom, left:right]
        columns, rows = np.flatnonzero(part.sum(0) >= 2), np.flatnonzero(part.sum(1) >= 2)
        if not len(columns) or not len(rows):
            continue
        across = (left + columns[0]) / width, (left + columns[-1] + 1) / width
        down = (top + rows[0]) / height, (top + rows[-1] + 1) / height
        side = min(max(across[1] - across[0], down[1] - down[0]) + 2 * margin, 1.0)
        if side < 0.2:  # a speck of noise, not a thing
            continue
        for place, (low, high) in enumerate((across, down)):
            start = min(max((low + high - side) / 2, 0.0), 1 - side)
            box[place], box[place + 2] = start, start + side
    return boxes


def colour_shares(
    images: NDArray[np.uint8], boxes: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """Measure which colours the things in pictures have.

    Args:
        images: [B, H, W, 3] sRGB.
        boxes: [B, 4], left, top, right, bottom, 0 to 1, to look only there.

    Returns:
        [B, 11] shares of the foreground in the order of `NAMES`; zeros where there is none.
    """
    seen = foreground(images)
    if boxes is not None:
        height, width = seen.shape[1:]
        rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        left, top, right, bottom = (side[:, None] for side in np.asarray(boxes).T)
        seen &= ((rows >= top) & (rows < bottom))[:, :, None]
        seen &= ((columns >= left) & (columns < right))[:, None, :]
    names = classify(to_oklab(images / np.float32(255)))
    shares = np.stack([(seen & (names == place)).sum((1, 2)) for place in range(len(NAMES))], 1)
    return (shares / np.maximum(shares.sum(1, keepdims=True), 1)).astype(np.float32)


def has_colour(shares: NDArray[np.floating], colour: str) -> NDArray[np.bool_]:
    """Tell whether things have a colour.

    A hue must be the largest among the hues and cover at least 15 %; black, white and grey must be
    the largest of all or cover at least 30 %.

    Args:
        shares: [B, 11], from `colour_shares`.
        colour: A name in `COLOURS`.

    Returns:
        [B].
    """
    place = NAMES.index(colour)
    own = shares[:, place]
    if COLOURS[colour].chroma > 0:
        return (own >= _HUED_SHARE) & (own >= shares[:, _HUED_PLACES].max(1))
    return (own > 0) & ((own >= shares.max(1)) | (own >= _GREY_SHARE))


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure how far two pictures of one prompt differ.

    Args:
        first: [B, H, W, 3] sRGB.
        second: The same prompts drawn with another seed.

    Returns:
        [B], mean absolute difference over the pixels that are foreground in either, 0 to 1.
    """
    apart = np.abs(first.astype(np.float32) - second).mean(-1) / 255
    seen = foreground(first) | foreground(second)
    return ((apart * seen).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)).astype(np.float32)
