"""The rows of scenes that the stages look at, each the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedded_sight.drawings import (
    Alternating,
    DrawingRenderer,
    DrawnArrangements,
    Samples,
    Split,
    drawn_arrangements,
)
from llmbind_cli.data.scenes.arrangements import ArrangementSampler
from llmbind_cli.data.scenes.grounds import list_photos
from llmbind_cli.data.scenes.pictures import SceneRenderer
from llmbind_cli.data.scenes.questions import QuestionKind, SceneQuestions
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World, load_world

SEED = 21
_SPEAKING_SEED = SEED + 1
_SIDE_PX = 256

_POINTING: dict[QuestionKind, float] = {
    "refer": 0.35,
    "spatial": 0.35,
    "reason": 0.22,
    "group": 0.08,
}
_IN_DRAWINGS: dict[QuestionKind, float] = {"refer": 0.4, "spatial": 0.4, "reason": 0.2}
"""Shares of what is asked. Most drawings show nothing twice, so no groups."""

_TURNS, _SPEAKING_TURNS = 8, 10


@dataclass(frozen=True)
class Scenes:
    """Where scenes come from.

    Attributes:
        world: The things.
        renderer: What draws scenes.
        photos: Photos that stand behind some of them.
    """

    world: World
    renderer: SceneRenderer
    photos: tuple[Path, ...]

    @classmethod
    def load(cls, sprites: Path, photos: Path | None) -> Scenes:
        """Load the sheet of sprites, and list the photos of a folder."""
        return cls(
            load_world(),
            SceneRenderer(Sprites.load(sprites), _SIDE_PX),
            () if photos is None else list_photos(photos),
        )

    def pointing(self, split: Literal["train", "held_out_scenes"], *, name: str) -> SceneQuestions:
        """Return scenes with expressions to point at."""
        sampler = ArrangementSampler(self.world, SEED, split=split, photos=self.photos)
        name = f"{name}/{split}"
        return SceneQuestions(sampler, self.renderer, name=name, turns=_TURNS, questions=_POINTING)

    def drawings(self, folder: Path, split: Split) -> tuple[DrawnArrangements, DrawingRenderer]:
        """Return the scenes of a row that was drawn, and what shows the drawings of them."""
        renderer = DrawingRenderer(self.renderer.sprites, folder / split)
        return drawn_arrangements(folder, self.world, split), renderer

    def drawn(self, folder: Path, split: Split, *, tied: bool = False) -> SceneQuestions:
        """Return drawings with expressions to point at."""
        sampler, renderer = self.drawings(folder, split)
        return SceneQuestions(
            sampler,
            renderer,
            name=f"drawn/{split}",
            turns=_TURNS,
            questions=_IN_DRAWINGS,
            tied=tied,
        )

    def speaking(self) -> SceneQuestions:
        """Return scenes that the language model speaks about, whose states are read."""
        sampler = ArrangementSampler(self.world, _SPEAKING_SEED, photos=self.photos)
        return SceneQuestions(
            sampler,
            self.renderer,
            name="speak",
            turns=_SPEAKING_TURNS,
            questions=_POINTING,
            tied=True,
        )

    def spoken(self, drawings: Path | None) -> Samples:
        """Return the scenes that are spoken about, every fourth a drawing where there are some."""
        if drawings is None:
            return self.speaking()
        return Alternating(self.speaking(), self.drawn(drawings, "train", tied=True))
