"""Batches of scenes with their captions, each the same for its number on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.scenes.captions import caption
from llmbind_cli.data.scenes.colours import HUED
from llmbind_cli.data.scenes.compose import render
from llmbind_cli.data.scenes.graph import Background, Scene
from llmbind_cli.data.scenes.sampling import Kind, SceneSampler, may_be_turned
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World

MIX: Mapping[Kind, float] = {
    "single": 0.22,
    "coloured": 0.2,
    "sized": 0.05,
    "counted": 0.08,
    "pair": 0.31,
    "triple": 0.04,
    "placed": 0.04,
    "background": 0.06,
}
"""Share of each kind of scene: more things together than by default."""


@dataclass(frozen=True)
class Drawn:
    """A batch of B scenes.

    Attributes:
        pictures: [B, S, S, 3] sRGB, each varied by chance.
        plans: [B, S, S, 3], the same scenes as their captions alone tell them.
        captions: What the scenes are called.
    """

    pictures: NDArray[np.uint8]
    plans: NDArray[np.uint8]
    captions: list[str]


class SceneBatches:
    """Batches by number, of steady scenes in captions that leave nothing out.

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
        mix: Mapping[Kind, float] = MIX,
    ) -> None:
        self._sampler = SceneSampler(world, seed, mix=mix, steady=True)
        self._sprites, self._size_px, self._seed = sprites, size_px, seed

    def scenes(self, number: int, size: int) -> list[Scene]:
        """Return the scenes of a batch."""
        return [self._sampler[number * size + place] for place in range(size)]

    def captions(self, number: int, size: int) -> list[str]:
        """Return the captions of a batch."""
        return self._worded(self.scenes(number, size), number)

    def pictures(self, number: int, size: int) -> NDArray[np.uint8]:
        """Return the varied pictures of a batch, [size, S, S, 3]."""
        return self._drawn(self._varied(self.scenes(number, size), number))

    def plans(self, number: int, size: int) -> tuple[NDArray[np.uint8], list[str]]:
        """Return the pictures as the captions tell them, and the captions."""
        scenes = self.scenes(number, size)
        return self._drawn(scenes), self._worded(scenes, number)

    def batch(self, number: int, size: int, *, varied: bool = True) -> Drawn:
        """Return all of a batch; ``varied`` false takes the plans for the pictures."""
        plans, captions = self.plans(number, size)
        return Drawn(self.pictures(number, size) if varied else plans, plans, captions)

    def _drawn(self, scenes: list[Scene]) -> NDArray[np.uint8]:
        return np.stack([render(scene, self._sprites, self._size_px)[0] for scene in scenes])

    def _worded(self, scenes: list[Scene], number: int) -> list[str]:
        rng = Random(f"captions/{self._seed}/{number}")
        return [caption(scene, rng, exact=True) for scene in scenes]

    def _varied(self, scenes: list[Scene], number: int) -> list[Scene]:
        rng = Random(f"variety/{self._seed}/{number}")
        return [vary(scene, rng) for scene in scenes]


def vary(scene: Scene, rng: Random) -> Scene:
    """Change what no caption tells: things may be mirrored, and tones of the background differ.

    Where nothing is told of the background it may have a pale tone that none of the things has.
    """
    things = tuple(
        replace(placed, flip=may_be_turned(placed.thing) and rng.random() < _TURNED)
        for placed in scene.things
    )
    background, shade = scene.background, rng.random()
    if background.kind == "white" and rng.random() < _TINTED:
        taken = {placed.colour or name for placed in things for name in placed.thing.colours}
        if free := [hue for hue in HUED if hue not in taken]:
            background, shade = Background("plain", rng.choice(free)), _PALE * shade
    return Scene(things, background, shade)


_TURNED, _TINTED = 0.4, 0.5
_PALE = 0.2
"""Largest shade of a tone that nobody asked for."""
