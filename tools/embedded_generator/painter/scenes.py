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
from llmbind_cli.data.scenes.graph import Background, Box, Scene
from llmbind_cli.data.scenes.sampling import Kind, SceneSampler
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World

MIX: Mapping[Kind, float] = {
    "single": 0.3,
    "coloured": 0.2,
    "sized": 0.05,
    "counted": 0.08,
    "pair": 0.25,
    "triple": 0.04,
    "placed": 0.04,
    "background": 0.04,
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
        lively: Vary sizes and places of things too.
    """

    def __init__(
        self,
        world: World,
        sprites: Sprites,
        *,
        size_px: int,
        seed: int,
        mix: Mapping[Kind, float] = MIX,
        lively: bool = False,
    ) -> None:
        self._sampler = SceneSampler(world, seed, mix=mix, steady=True)
        self._sprites, self._size_px, self._seed = sprites, size_px, seed
        self._lively = lively

    def scenes(self, number: int, size: int) -> list[Scene]:
        """Return the scenes of a batch."""
        return [self._sampler[number * size + place] for place in range(size)]

    def captions(self, number: int, size: int) -> list[str]:
        """Return the captions of a batch."""
        return self._worded(self.scenes(number, size), number)

    def pictures(self, number: int, size: int) -> NDArray[np.uint8]:
        """Return the varied pictures of a batch, [size, S, S, 3]."""
        rng = Random(f"variety/{self._seed}/{number}")
        pictures = []
        for scene in self.scenes(number, size):
            picture, masks = render(self._varied(scene, rng), self._sprites, self._size_px)
            pictures.append(lit(picture, masks.any(0), rng))
        return np.stack(pictures)

    def _varied(self, scene: Scene, rng: Random) -> Scene:
        varied = vary(scene, rng)
        return moved(varied, rng) if self._lively else varied

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


def vary(scene: Scene, rng: Random) -> Scene:
    """Change what no caption tells: the tones of the background differ.

    Where nothing is told of the background it may have a pale tone that none of the things has.
    """
    background, shade = scene.background, rng.random()
    if background.kind == "white" and rng.random() < _TINTED:
        taken = {placed.colour or name for placed in scene.things for name in placed.thing.colours}
        if free := [hue for hue in HUED if hue not in taken]:
            background, shade = Background("plain", rng.choice(free)), _PALE * shade
    return Scene(scene.things, background, shade)


def moved(scene: Scene, rng: Random) -> Scene:
    """Make things a little larger or smaller and move them a little, inside the picture."""
    things = tuple(
        placed if placed.thing.alone else replace(placed, box=_moved(placed.box, rng))
        for placed in scene.things
    )
    return replace(scene, things=things)


def _moved(box: Box, rng: Random) -> Box:
    scale = rng.uniform(*_SCALE)
    width, height = min(scale * box.width, 1.0), min(scale * box.height, 1.0)
    x, y = (centre + rng.uniform(-_SHIFT, _SHIFT) for centre in box.centre)
    left = min(max(x - width / 2, 0.0), 1 - width)
    top = min(max(y - height / 2, 0.0), 1 - height)
    return Box(left, top, min(left + width, 1.0), min(top + height, 1.0))


def lit(picture: NDArray[np.uint8], things: NDArray[np.bool_], rng: Random) -> NDArray[np.uint8]:
    """Put the things of a picture in another light: brighter or darker, warmer or cooler.

    Args:
        picture: [S, S, 3] sRGB.
        things: [S, S], where a thing is seen.
        rng: Chance.

    Returns:
        [S, S, 3] sRGB; what lies behind the things is as it was.
    """
    warmth = rng.uniform(-_WARMTH, _WARMTH)
    light = rng.uniform(*_LIGHT) * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    shone = np.clip(np.rint(picture * light), 0, 255).astype(np.uint8)
    return np.where(things[..., None], shone, picture)


_TINTED = 0.6
_PALE = 0.2
"""Largest shade of a tone that nobody asked for."""

_LIGHT, _WARMTH = (0.78, 1.15), 0.1
"""What a thing's colours are multiplied by, and by how much more in red than in green."""

_SCALE, _SHIFT = (0.9, 1.1), 0.02
"""What a thing's size is multiplied by, and how far it moves, as a share of the picture's side."""
