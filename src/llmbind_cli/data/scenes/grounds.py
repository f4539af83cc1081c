"""What lies behind the things of a scene that is to be looked at: drawn, textured, or a photo."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.pictures import picture_key, picture_size, read_picture
from llmbind_cli.data.scenes.backgrounds import draw_background
from llmbind_cli.data.scenes.colours import COLOURS, from_oklab
from llmbind_cli.data.scenes.graph import Background
from llmbind_cli.data.segmentation.coco128_split import coco128_images
from llmbind_cli.errors import InputDataError

TextureKind = Literal["cloudy", "striped", "checked", "dotted", "grained", "waved"]
TEXTURES: tuple[TextureKind, ...] = ("cloudy", "striped", "checked", "dotted", "grained", "waved")

_PHOTO_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SMALLEST_PX = 64
_HELD_OUT = 0.2

Canvas = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DrawnGround:
    """A plain colour or a simple place.

    Attributes:
        background: Which.
        shade: 0 to 1; varies tones and horizon.
    """

    background: Background
    shade: float

    def draw(self, size_px: int) -> Canvas:
        """Return [S, S, 3] float32, 0 to 255."""
        return draw_background(self.background, self.shade, size_px)


@dataclass(frozen=True, slots=True)
class TexturedGround:
    """A pattern in two tones.

    Attributes:
        kind: Which.
        seed: Of its colours, its direction and its fineness.
    """

    kind: TextureKind
    seed: int

    def draw(self, size_px: int) -> Canvas:
        """Return [S, S, 3] float32, 0 to 255."""
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
        angle, cycles = rng.uniform(0, np.pi), rng.uniform(3, 14)
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        wave = np.sin(2 * np.pi * cycles * along)
        cross = np.sin(2 * np.pi * cycles * across)
        level = _PATTERNS[self.kind](rng, size_px, wave, cross, cycles * along)
        first, second = _tone(rng), _tone(rng)
        blended: Canvas = (first + (second - first) * level[..., None]).astype(np.float32)
        return blended


@dataclass(frozen=True, slots=True)
class PhotoGround:
    """A square part of a photo.

    Attributes:
        path: The photo.
        left: Where the part begins, as a share of what can be shifted in x.
        top: The same in y.
        share: Side of the part as a share of the photo's shorter side.
        flip: Whether it is mirrored.
    """

    path: Path
    left: float
    top: float
    share: float
    flip: bool

    def draw(self, size_px: int) -> Canvas:
        """Return [S, S, 3] float32, 0 to 255.

        Raises:
            InputDataError: The photo cannot be read.
        """
        from PIL import Image

        photo = read_picture(self.path)
        side = max(1, round(min(photo.size) * self.share))
        left = round((photo.width - side) * self.left)
        top = round((photo.height - side) * self.top)
        part = photo.resize(
            (size_px, size_px), Image.Resampling.BOX, (left, top, left + side, top + side)
        )
        if self.flip:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(part, np.float32).copy()


Ground = DrawnGround | TexturedGround | PhotoGround


def is_held_out_photo(path: Path) -> bool:
    """Tell whether a photo is kept for evaluation; it follows from the file's name alone.

    Photos of COCO128 are on the side that its own split has them on, so that scenes show none of
    those that other sources are evaluated on.
    """
    collection, _, number = picture_key("photos", path.name).partition("/")
    if collection == "coco":
        if int(number) in coco128_images("held_out"):
            return True
        if int(number) in coco128_images("train"):
            return False
    digest = hashlib.blake2b(f"photo\0{path.name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < _HELD_OUT


def list_photos(folder: Path) -> tuple[Path, ...]:
    """Return the photos of a folder that can stand behind things, by name.

    Raises:
        InputDataError: There is no such folder, or none that is large enough in it.
    """
    if not folder.is_dir():
        raise InputDataError(f"{folder}: no such folder of photos")
    found = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in _PHOTO_ENDINGS)
    photos = tuple(path for path in found if min(picture_size(path)) >= _SMALLEST_PX)
    if not photos:
        raise InputDataError(f"{folder}: holds no photo of at least {_SMALLEST_PX} px")
    return photos


def draw_photo_ground(rng: Random, photos: tuple[Path, ...]) -> PhotoGround:
    """Draw a part of one of the photos."""
    return PhotoGround(
        path=rng.choice(photos),
        left=rng.random(),
        top=rng.random(),
        share=rng.uniform(0.5, 1.0),
        flip=rng.random() < 0.5,
    )


def _noise(rng: np.random.Generator, size_px: int, cells: int) -> Canvas:
    """Return smooth noise from 0 to 1, [S, S]."""
    from PIL import Image

    total = np.zeros((size_px, size_px), np.float32)
    for octave in range(3):
        grid = rng.random((cells << octave, cells << octave), dtype=np.float32)
        smooth = Image.fromarray(grid).resize((size_px, size_px), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) / 2**octave
    low, high = float(total.min()), float(total.max())
    scaled: Canvas = (total - low) / max(high - low, 1e-6)
    return scaled


_Pattern = Callable[[np.random.Generator, int, Canvas, Canvas, Canvas], Canvas]
_PATTERNS: Mapping[TextureKind, _Pattern] = {
    "cloudy": lambda rng, size_px, *_: _noise(rng, size_px, 4),
    "striped": lambda _, __, wave, *___: (wave > 0).astype(np.float32),
    "checked": lambda _, __, wave, cross, ___: (wave * cross > 0).astype(np.float32),
    "dotted": lambda _, __, wave, cross, ___: (wave + cross > 1.1).astype(np.float32),
    "grained": lambda rng, size_px, *_: rng.random((size_px, size_px), dtype=np.float32),
    "waved": lambda rng, size_px, _, __, turns: (
        np.sin(2 * np.pi * (turns + _noise(rng, size_px, 3))) / 2 + 0.5
    ).astype(np.float32),
}
"""How each texture follows from chance, the side, two waves, and the turns of the first, 0 to 1."""


def _tone(rng: np.random.Generator) -> Canvas:
    """Return a tone that is paler or darker than the named colours."""
    colour = list(COLOURS.values())[rng.integers(len(COLOURS))]
    lightness = rng.uniform(0.35, 0.95)
    chroma = colour.chroma * rng.uniform(0.15, 0.6)
    hue = np.radians(colour.hue)
    lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    tone: Canvas = (np.clip(from_oklab(lab), 0, 1) * 255).astype(np.float32)
    return tone
