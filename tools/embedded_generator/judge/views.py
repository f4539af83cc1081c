"""What the judge sees in training: drawings under every change that must not matter.

A drawing is painted in another colour or loses its own, is turned, mirrored, bent, scaled and
shifted, is set on a background, gets parts of other drawings at its edges, and is made as coarse
and soft as a small picture that a network drew.

Notation: B pictures, S side of the sprites, V side of a view, in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmbind_cli.data.scenes.backgrounds import draw_background
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.graph import Background, BackgroundKind
from llmbind_cli.data.scenes.recolour import recolour
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World

VIEW_PX = 96
_SPRITE_PX = 80
_BACKGROUNDS = 240
_SPARED = frozenset({"fluent", "fluent-emoji"})
"""Two renderings of one artist's shapes: each is drawn from half as often."""


@dataclass(frozen=True)
class Drawing:
    """One drawing of a thing.

    Attributes:
        index: Where its pixels are.
        weight: How often it is drawn from, compared with the thing's others.
    """

    index: int
    weight: float


class Views:
    """Random views of things.

    Args:
        world: The things; a view's label is its thing's place in it.
        styles: The drawings by style.
        seed: Decides every view, together with its number.
    """

    def __init__(self, *, world: World, styles: dict[str, Sprites], seed: int) -> None:
        self.names = [thing.name for thing in world]
        pictures: list[np.ndarray] = []
        self.drawings: list[list[Drawing]] = []
        for thing in world:
            own: list[Drawing] = []
            for style, sprites in styles.items():
                weight = 0.5 if style in _SPARED else 1.0
                for code in thing.codes:
                    if code in sprites:
                        own.append(Drawing(len(pictures), weight))
                        pictures.append(sprites[code])
            if not own:
                raise ValueError(f"{thing.name} has no drawing in {sorted(styles)}")
            self.drawings.append(own)
        stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        self._sprites = torch.cat([_shrink(part) for part in stacked.split(256)])
        self._recolour = [thing.recolour for thing in world]
        self._backgrounds = _draw_backgrounds(seed)
        self._seed = seed

    def batch(self, number: int, size: int) -> tuple[Tensor, Tensor]:
        """Return one batch, the same for the same number.

        Args:
            number: Number of the batch.
            size: B.

        Returns:
            [B, 3, V, V] float32, 0 to 1, and [B] labels.
        """
        rng = Random(f"{self._seed}/{number}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        labels = [rng.randrange(len(self.drawings)) for _ in range(size)]
        sprites = torch.stack([self._sprite(rng, label) for label in labels])
        views = self._ground(rng, generator, size)
        near = [index for index in range(size) if rng.random() < 0.35]
        if near:
            others = [self._sprite(rng, rng.randrange(len(self.drawings))) for _ in near]
            views[near] = _over(
                views[near], _placed(torch.stack(others), rng, generator, edge=True)
            )
        views = _over(views, _placed(sprites, rng, generator, edge=False))
        return _coarsened(views, rng, generator), torch.tensor(labels)

    def _sprite(self, rng: Random, label: int) -> Tensor:
        """[4, S, S] premultiplied, in its own colours or others."""
        drawings = self.drawings[label]
        index = rng.choices(drawings, [drawing.weight for drawing in drawings])[0].index
        sprite = self._sprites[index]
        chance = rng.random()
        if self._recolour[label] and chance < 0.25:
            pixels = sprite.permute(1, 2, 0).numpy()
            painted = recolour(np.ascontiguousarray(pixels), rng.choice(NAMES))
            return _premultiplied(torch.from_numpy(painted).permute(2, 0, 1))
        sprite = _premultiplied(sprite)
        if chance < 0.8:
            mixing = _colour_matrix(rng)
            rgb = torch.einsum("ij,jhw->ihw", mixing, sprite[:3])
            light = rng.uniform(0.8, 1.2)
            rgb = (rgb * light).clamp(min=0).minimum(sprite[3:])
            return torch.cat([rgb, sprite[3:]])
        return sprite

    def _ground(self, rng: Random, generator: torch.Generator, size: int) -> Tensor:
        """[B, 3, V, V]: white, a plain colour or a simple place, seen whole or in part."""
        views = torch.ones(size, 3, VIEW_PX, VIEW_PX)
        for view in views:
            chance = rng.random()
            if chance < 0.2:
                view[:] = torch.rand(3, 1, 1, generator=generator)
            elif chance < 0.45:
                ground = self._backgrounds[rng.randrange(len(self._backgrounds))]
                side = rng.randint(VIEW_PX // 3, VIEW_PX)
                top, left = rng.randint(0, VIEW_PX - side), rng.randint(0, VIEW_PX - side)
                part = ground[None, :, top : top + side, left : left + side]
                view[:] = functional.interpolate(part, VIEW_PX, mode="bilinear")[0]
        return views


def _shrink(pictures: Tensor) -> Tensor:
    """Scale [B, 4, S', S'] uint8 RGBA to the side of the sprites, by premultiplied colours."""
    scaled = functional.interpolate(
        _premultiplied(pictures), _SPRITE_PX, mode="bilinear", antialias=True
    )
    rgb = scaled[:, :3] / scaled[:, 3:].clamp(min=1e-3)
    return (torch.cat([rgb, scaled[:, 3:]], 1) * 255).round().clamp(0, 255).to(torch.uint8)


def _premultiplied(pictures: Tensor) -> Tensor:
    """[..., 4, S, S] uint8 → float32, 0 to 1, colours multiplied by alpha."""
    shown = pictures.float() / 255
    return torch.cat([shown[..., :3, :, :] * shown[..., 3:, :, :], shown[..., 3:, :, :]], -3)


def _draw_backgrounds(seed: int) -> Tensor:
    rng = Random(f"{seed}/backgrounds")
    kinds = [kind for kind in get_args(BackgroundKind) if kind not in ("white", "plain")]
    drawn = [
        draw_background(Background(rng.choice(kinds)), rng.random(), VIEW_PX)
        for _ in range(_BACKGROUNDS)
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def _colour_matrix(rng: Random) -> Tensor:
    """Turn the hue around the grey axis, change saturation; now and then leave grey alone."""
    angle = rng.choice((rng.gauss(0, 0.35), rng.uniform(-math.pi, math.pi)))
    saturation = 0.0 if rng.random() < 0.15 else rng.uniform(0.4, 1.4)
    third, root = 1 / 3, math.sqrt(1 / 3)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.full((3, 3), (1 - cosine) * third) + cosine * torch.eye(3)
    turn += sine * root * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    grey = torch.full((3, 3), third)
    return grey + saturation * (turn - grey)


def _placed(sprites: Tensor, rng: Random, generator: torch.Generator, *, edge: bool) -> Tensor:
    """Turn, mirror, bend, scale and shift sprites.

    Args:
        sprites: [B, 4, S, S], premultiplied.
        rng: Source of chance.
        generator: Source of chance for tensors.
        edge: Sets them across an edge of the view instead of inside it.

    Returns:
        [B, 4, V, V], premultiplied.
    """
    rows = []
    for _ in range(len(sprites)):
        side = rng.uniform(0.4, 1.1) if edge or rng.random() < 0.35 else rng.uniform(0.65, 1.08)
        room = max(1 - side, 0) + 0.08
        x, y = rng.uniform(-room, room), rng.uniform(-room, room)
        if edge:
            away = rng.choice((-1, 1)) * (1 + side * rng.uniform(-0.1, 0.75))
            x, y = (away, y) if rng.random() < 0.7 else (x, away)
        turn = rng.gauss(0, 0.12)
        flip = -1 if rng.random() < 0.4 else 1
        across = side * math.exp(rng.gauss(0, 0.08))
        down = side * math.exp(rng.gauss(0, 0.08))
        cosine, sine = math.cos(turn), math.sin(turn)
        # From a place in the view to the one in the sprite that is seen there.
        a, b = cosine / across * flip, sine / across * flip
        c, d = -sine / down, cosine / down
        rows.append([[a, b, -(a * x + b * y)], [c, d, -(c * x + d * y)]])
    count = len(sprites)
    grid = functional.affine_grid(
        torch.tensor(rows), [count, 4, VIEW_PX, VIEW_PX], align_corners=False
    )
    knots = rng.choice((3, 4, 6))
    bend = torch.randn(count, 2, knots, knots, generator=generator)
    strength = torch.rand(count, 1, 1, 1, generator=generator) ** 2 * (0.36 / knots)
    smooth = functional.interpolate(bend * strength, VIEW_PX, mode="bicubic", align_corners=True)
    return functional.grid_sample(
        sprites, grid + smooth.permute(0, 2, 3, 1), mode="bilinear", align_corners=False
    )


def _over(views: Tensor, placed: Tensor) -> Tensor:
    return views * (1 - placed[:, 3:]) + placed[:, :3]


def _coarsened(views: Tensor, rng: Random, generator: torch.Generator) -> Tensor:
    """Lose detail and gain noise, as small pictures that are scaled up do."""
    views = views.clone()
    for index in range(len(views)):
        view = views[index : index + 1]
        if rng.random() < 0.8:
            side = rng.randint(24, 80)
            view = functional.interpolate(view, side, mode="bilinear", antialias=True)
            if rng.random() < 0.3:
                view = functional.avg_pool2d(
                    functional.pad(view, (1, 1, 1, 1), mode="replicate"), 3, stride=1
                )
            if rng.random() < 0.3:
                noise = torch.randn(view.shape, generator=generator)
                view = view + noise * rng.uniform(0, 0.05)
            view = functional.interpolate(view, VIEW_PX, mode=rng.choice(("bilinear", "bicubic")))
        contrast, light = rng.uniform(0.8, 1.15), rng.uniform(-0.06, 0.06)
        views[index] = ((view - 0.5) * contrast + 0.5 + light)[0]
    return views.clamp(0, 1)
