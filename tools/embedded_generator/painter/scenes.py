"""Batches of scenes with their captions, each the same for its number on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.scenes.captions import caption
from llmbind_cli.data.scenes.compose import render
from llmbind_cli.data.scenes.graph import Scene
from llmbind_cli.data.scenes.sampling import DEFAULT_MIX, Kind, SceneSampler
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World

EARLY_MIX: Mapping[Kind, float] = {
    "single": 0.42,
    "coloured": 0.2,
    "sized": 0.06,
    "counted": 0.06,
    "pair": 0.18,
    "placed": 0.04,
    "background": 0.04,
}
"""What the first part of a training sees: mostly what each thing looks like."""

LATE_MIX: Mapping[Kind, float] = {
    "single": 0.22,
    "coloured": 0.2,
    "sized": 0.05,
    "counted": 0.08,
    "pair": 0.31,
    "triple": 0.04,
    "placed": 0.04,
    "background": 0.06,
}
"""What the rest sees: more things together."""


class SceneBatches:
    """Batches by number, of steady scenes.

    Args:
        world: The things.
        sprites: Their looks.
        size_px: Side of a picture.
        seed: Decides every batch, together with its number.
        mix: Share of each kind of scene.
    """

    def __init__(
        self,
        world: World,
        sprites: Sprites,
        *,
        size_px: int,
        seed: int,
        mix: Mapping[Kind, float] = DEFAULT_MIX,
    ) -> None:
        self._sampler = SceneSampler(world, seed, mix=mix, steady=True)
        self._sprites, self._size_px, self._seed = sprites, size_px, seed

    def scenes(self, number: int, size: int) -> list[Scene]:
        """Return the scenes of a batch."""
        return [self._sampler[number * size + place] for place in range(size)]

    def captions(self, number: int, size: int) -> list[str]:
        """Return the captions of a batch."""
        return self._worded(self.scenes(number, size), number)

    def batch(self, number: int, size: int) -> tuple[NDArray[np.uint8], list[str]]:
        """Return the pictures, [size, S, S, 3], and the captions of a batch."""
        scenes = self.scenes(number, size)
        images = np.stack([render(scene, self._sprites, self._size_px)[0] for scene in scenes])
        return images, self._worded(scenes, number)

    def _worded(self, scenes: list[Scene], number: int) -> list[str]:
        rng = Random(f"captions/{self._seed}/{number}")
        return [caption(scene, rng) for scene in scenes]
