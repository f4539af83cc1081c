"""Scenes as pictures with masks, drawn when they are asked for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.pictures import PictureFile, picture_key
from llmbind_cli.data.scenes.arrangements import Arrangement, photo_of
from llmbind_cli.data.scenes.compose import draw_things
from llmbind_cli.data.scenes.sprites import Sprites

if TYPE_CHECKING:
    from PIL.Image import Image

_KEPT = 16
"""Scenes kept in memory as drawn: a picture and its masks are asked for one after the other."""


class SceneRenderer:
    """Draws scenes at one size, and keeps the last few.

    Attributes:
        sprites: As given.
        size_px: As given.

    Args:
        sprites: The things' looks.
        size_px: S, width and height of every picture.
    """

    def __init__(self, sprites: Sprites, size_px: int) -> None:
        self.size_px = size_px
        self.sprites = sprites
        self.drawn = functools.lru_cache(maxsize=_KEPT)(self._draw)

    def _draw(self, scene: ScenePicture) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        canvas = scene.arrangement.ground.draw(self.size_px)
        placed = [(thing, thing.box) for thing in scene.arrangement.things]
        return draw_things(canvas, placed, self.sprites)


@dataclass(frozen=True, slots=True, eq=False)
class ScenePicture:
    """A scene as a picture.

    Attributes:
        key: Its row and number.
        arrangement: What it shows.
        renderer: What draws it.
    """

    key: str
    arrangement: Arrangement
    renderer: SceneRenderer

    def files(self) -> tuple[PictureFile, ...]:
        """Return the photo behind the things, where there is one."""
        path = photo_of(self.arrangement)
        return () if path is None else (PictureFile(path, picture_key("photos", path.name)),)

    def load(self) -> Image:
        """Draw it: mode ``RGB``, S × S.

        Raises:
            InputDataError: The photo behind it cannot be read.
            KeyError: There is no sprite for a thing.
        """
        from PIL import Image

        return Image.fromarray(self.renderer.drawn(self)[0])

    def sha256(self) -> str:
        """Return a hash of what it shows."""
        return self.arrangement.digest()


@dataclass(frozen=True, slots=True, eq=False)
class SceneMask:
    """What shows of some of a scene's things.

    Attributes:
        picture: The scene.
        targets: Indices of the things.
    """

    picture: ScenePicture
    targets: tuple[int, ...]

    def decode(self) -> NDArray[np.bool_]:
        """Return [S, S] bool."""
        masks = self.picture.renderer.drawn(self.picture)[1]
        united: NDArray[np.bool_] = np.logical_or.reduce(masks[list(self.targets)])
        return united
