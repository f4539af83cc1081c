"""Scenes as the embedded generator draws them: what people show the bundle most.

Of each scene of the scene graph the generator gets the caption alone. What stands where follows
from that caption, so the scene tells it of the drawing too; masks are nearly those of the scene.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from resumable.precision import cpu_autocast

from llmbind_cli.console import console
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.arrangements import Arrangement, is_held_out_thing
from llmbind_cli.data.scenes.captions import caption
from llmbind_cli.data.scenes.grounds import DrawnGround
from llmbind_cli.data.scenes.pictures import ScenePicture, SceneRenderer
from llmbind_cli.data.scenes.sampling import Kind, SceneSampler
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World
from llmbind_cli.generators.base import GeneratedArtifact, GeneratorRequest
from llmbind_cli.generators.image import ImageGenerator
from llmbind_cli.weights.atomic import write_atomically

Split = Literal["train", "held_out"]

_MIX: Mapping[Kind, float] = {
    "single": 0.2,
    "coloured": 0.2,
    "counted": 0.08,
    "pair": 0.36,
    "triple": 0.08,
    "placed": 0.03,
    "background": 0.05,
}
_HELD_OUT_MIX: Mapping[Kind, float] = {"coloured": 0.3, "pair": 0.7}
_BATCH = 16
_EVERY = 4
_SIDE_PX = 128
_TOLD = "drawings.json"


class DrawnArrangements:
    """The scenes of a row that the generator draws; training knows everything in them.

    Attributes:
        known: Things that training may see.

    Args:
        world: The things.
        seed: Seed of the row.
        split: Scenes that training may see, or pairs that neither the generator nor what looks at
            its drawings has seen, and things in colours that the generator has not.
        count: Scenes in the row.
    """

    def __init__(self, world: World, seed: int, *, split: Split, count: int) -> None:
        known = tuple(one for one in world if not one.alone and not is_held_out_thing(one))
        self.known = list(known)
        self.count = count
        self._row = f"{split}/{seed}"
        held_out = split == "held_out"
        mix = _HELD_OUT_MIX if held_out else _MIX
        self._scenes = SceneSampler(World(known), seed, mix=mix, held_out=held_out, steady=True)

    def draw(self, number: int, attempt: int = 0) -> Arrangement:
        """Return a scene of the row; further attempts give others in its place."""
        scene = self._scenes[(number + attempt) % self.count]
        things = tuple(
            dataclasses.replace(scene.things[index], box=box, count=1)
            for index, box in scene.instances()
        )
        return Arrangement(things, DrawnGround(scene.background, scene.shade))

    def request(self, number: int) -> GeneratorRequest:
        """Return what the generator is asked for a scene of the row."""
        words = caption(self._scenes[number], Random(f"drawn/{self._row}/{number}"), exact=True)
        return GeneratorRequest(prompt=words, seed=number)


class DrawingRenderer(SceneRenderer):
    """Shows drawings of scenes instead of the scenes.

    Args:
        sprites: The things' looks, which tell where in a drawing they are.
        folder: The drawings, each named after what it shows.
    """

    def __init__(self, sprites: Sprites, folder: Path) -> None:
        super().__init__(sprites, _SIDE_PX)
        self._folder = folder

    def _draw(self, scene: ScenePicture) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        with Image.open(_drawing(self._folder, scene.arrangement)) as picture:
            return np.asarray(picture.convert("RGB")), super()._draw(scene)[1]


class Samples(Protocol):
    """Samples that can be had by their number."""

    def __getitem__(self, number: int) -> Sample:
        """The sample of a number, ≥ 0."""


class Alternating:
    """Samples of scenes, every fourth of which is one of drawings.

    Args:
        scenes: Samples of scenes.
        drawings: Samples of drawings.
    """

    def __init__(self, scenes: Samples, drawings: Samples) -> None:
        self._scenes, self._drawings = scenes, drawings

    def __getitem__(self, number: int) -> Sample:
        """The sample of a number, ≥ 0."""
        turn, place = divmod(number, _EVERY)
        return self._drawings[turn] if place == _EVERY - 1 else self._scenes[number]


def draw_all(
    generator: ImageGenerator, world: World, folder: Path, *, seed: int, counts: Mapping[Split, int]
) -> None:
    """Draw rows of scenes into a folder. Stopped, it goes on where it was.

    Args:
        generator: Draws them.
        world: The things.
        folder: Gets a folder for each row, and a file that tells how they were made.
        seed: Of the scenes.
        counts: Scenes of each row.
    """
    for split, count in counts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        row = DrawnArrangements(world, seed, split=split, count=count)
        _draw_row(generator, row, folder / split)
    told = {"seed": seed, "counts": dict(counts), "generator": generator.model_hash}
    write_atomically(folder / _TOLD, lambda file: file.write(json.dumps(told, indent=2).encode()))


def drawn_arrangements(folder: Path, world: World, split: Split) -> DrawnArrangements:
    """Return the scenes of a row that was drawn into a folder."""
    told = json.loads((folder / _TOLD).read_text(encoding="utf-8"))
    return DrawnArrangements(world, told["seed"], split=split, count=told["counts"][split])


def _drawing(folder: Path, arrangement: Arrangement) -> Path:
    """Return where a folder has the drawing of a scene."""
    return folder / f"{arrangement.digest()[:16]}.png"


def _draw_row(generator: ImageGenerator, row: DrawnArrangements, folder: Path) -> None:
    paths = [_drawing(folder, row.draw(number)) for number in range(row.count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    for start in range(0, len(missing), _BATCH):
        chosen = missing[start : start + _BATCH]
        for number, payload in zip(chosen, _made(generator, row, chosen), strict=True):
            write_atomically(paths[number], lambda file, payload=payload: file.write(payload))
        if start % (20 * _BATCH) == 0:
            done = row.count - len(missing) + start + len(chosen)
            console.log(f"{folder}: {done} of {row.count} scenes drawn")


def _made(generator: ImageGenerator, row: DrawnArrangements, numbers: Sequence[int]) -> list[bytes]:
    """Return the files of some drawings.

    Raises:
        LlmbindError: One could not be drawn.
    """
    # Several at a time: the files need not be the same on every machine.
    generator.batch_size = len(numbers)
    with cpu_autocast():
        outcomes = generator.generate([row.request(number) for number in numbers])
    payloads = []
    for outcome in outcomes:
        if not isinstance(outcome, GeneratedArtifact):
            raise outcome
        payloads.append(outcome.payload)
    return payloads
