"""The world, and sprites for all of it that need no drawing: a shaded disc with a dark rim."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World, load_world

SIDE = 24

Disc = Callable[[tuple[int, int, int]], np.ndarray]


@pytest.fixture(scope="session")
def disc() -> Disc:
    """Draws a disc, lighter at its upper left, with a dark rim and one white highlight."""

    def draw(rgb: tuple[int, int, int]) -> np.ndarray:
        y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) - 0.5
        radius = np.hypot(x, y)
        shade = 1 - 0.35 * (x + y)
        picture = np.zeros((SIDE, SIDE, 4), np.uint8)
        picture[..., :3] = np.clip(np.array(rgb) * shade[..., None] * 0.85, 0, 255)
        picture[(radius > 0.42), :3] = 25
        picture[np.hypot(x + 0.18, y + 0.18) < 0.06, :3] = 255
        picture[radius < 0.48, 3] = 255
        return picture

    return draw


@pytest.fixture(scope="session")
def world() -> World:
    return load_world()


@pytest.fixture(scope="session")
def sprites(world: World, disc: Disc) -> Sprites:
    codes = tuple(code for thing in world for code in thing.codes)
    return Sprites(codes=codes, pictures=np.stack([disc((210, 60, 40))] * len(codes)))
