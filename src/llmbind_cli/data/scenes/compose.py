"""Draw a scene: its picture, and one exact mask for every single thing in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llmbind_cli.data.scenes.backgrounds import draw_background
from llmbind_cli.data.scenes.graph import Box, PlacedThing, Scene
from llmbind_cli.data.scenes.sprites import Sprites

_OPAQUE = 128
"""Alpha from which a pixel belongs to a thing."""


def render(
    scene: Scene, sprites: Sprites, size_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a scene.

    Args:
        scene: What to draw.
        sprites: The things' looks; they should be at least about as large as they are drawn.
        size_px: Width and height of the picture.

    Returns:
        The picture, [size_px, size_px, 3] uint8 sRGB, and the visible part of each single thing,
        [K, size_px, size_px] bool in the order of ``scene.instances()``. The masks do not overlap:
        what lies in front hides what lies behind.

    Raises:
        KeyError: There is no sprite for a thing.
    """
    canvas = draw_background(scene.background, scene.shade, size_px)
    placed = [(scene.things[index], box) for index, box in scene.instances()]
    return draw_things(canvas, placed, sprites)


def draw_things(
    canvas: NDArray[np.float32], placed: Sequence[tuple[PlacedThing, Box]], sprites: Sprites
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw things on what lies behind them.

    Args:
        canvas: [S, S, 3] float32, 0 to 255; changed in place.
        placed: Each single thing with its square, the hindmost first.
        sprites: The things' looks.

    Returns:
        The picture, [S, S, 3] uint8 sRGB, and the visible part of each thing, [K, S, S] bool.

    Raises:
        KeyError: There is no sprite for a thing.
    """
    size_px = len(canvas)
    masks = np.zeros((len(placed), size_px, size_px), np.bool_)
    for number, (thing, box) in enumerate(placed):
        side = max(1, round(box.width * size_px))
        left = min(round(box.left * size_px), size_px - side)
        top = min(round(box.top * size_px), size_px - side)
        sprite = sprites.painted(thing.thing.codes[thing.look], thing.colour)
        if thing.flip:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # Pillow scales RGBA with premultiplied alpha, so no dark or coloured seams appear; a
        # sharper filter would ring and leave a faint halo far from the thing.
        small = np.asarray(sprite.resize((side, side), Image.Resampling.BICUBIC))
        alpha = small[..., 3:] / np.float32(255)
        part = np.s_[top : top + side, left : left + side]
        canvas[part] += (small[..., :3] - canvas[part]) * alpha
        covered = small[..., 3] >= _OPAQUE
        masks[(slice(None), *part)] &= ~covered
        masks[(number, *part)] = covered
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), masks
