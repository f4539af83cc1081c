"""Tell which things pictures show, and where.

Notation: B pictures, H rows, W columns, N things, K kept guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from judge.foreground import foreground, tight_boxes
from judge.network import JudgeNetwork
from judge.training import load_judge
from judge.views import VIEW_PX
from llmbind_cli.data.scenes.graph import Side
from llmbind_cli.data.scenes.world import Thing, World

KEPT = 5
_BATCH = 64
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_HALVES = MappingProxyType({
    "left of": (0.0, 0.0, 0.5, 1.0),
    "right of": (0.5, 0.0, 1.0, 1.0),
    "above": (0.0, 0.0, 1.0, 0.5),
    "below": (0.0, 0.5, 1.0, 1.0),
})  # fmt: skip
_SIDES: tuple[Side, ...] = ("left of", "right of", "above", "below")
_OPPOSITE = (1, 0, 3, 2)


@dataclass(frozen=True)
class Recognition:
    """What the judge makes of pictures.

    Attributes:
        things: [B, 5] places of things in the world, the likeliest first.
        probabilities: [B, 5].
        every: [B, N] probability of every thing.
    """

    things: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    every: NDArray[np.float32]

    def knows(self, labels: NDArray[np.int64], top: int = KEPT) -> NDArray[np.bool_]:
        """Tell whether each picture's thing is among the first ``top`` guesses; [B] → [B]."""
        return (self.things[:, :top] == np.asarray(labels)[:, None]).any(1)


@dataclass(frozen=True)
class Pairs:
    """What the judge makes of pictures that shall show two things.

    Attributes:
        sides: Where the first thing stands, seen from the second, for each picture.
        first: [B] whether the first thing is among five guesses for its half of the picture.
        second: [B] the same for the second thing in the other half.
    """

    sides: tuple[Side, ...]
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]

    @property
    def both(self) -> NDArray[np.bool_]:
        """[B] whether both things are recognised."""
        return self.first & self.second


class Judge:
    """A trained judge.

    Args:
        network: The network.
        world: The things that its outputs stand for, in order.
    """

    def __init__(self, *, network: JudgeNetwork, world: World) -> None:
        if network.head.out_features != len(world):
            raise ValueError(
                f"the judge knows {network.head.out_features} things, the world has {len(world)}"
            )
        self.network = network.eval()
        self.world = world
        self._places = {thing.name: place for place, thing in enumerate(world)}

    @classmethod
    def load(cls, path: Path, world: World) -> Judge:
        """Read ``judge.safetensors``."""
        return cls(network=load_judge(path, names=[thing.name for thing in world]), world=world)

    def labels(self, things: list[Thing]) -> NDArray[np.int64]:
        """[B] places of things in the world."""
        return np.array([self._places[thing.name] for thing in things])

    def recognise(
        self, images: NDArray[np.uint8], boxes: NDArray[np.floating] | None = None
    ) -> Recognition:
        """Tell what pictures, or parts of them, show.

        Each picture is looked at as it is, cut to what stands before its background, and mirrored.

        Args:
            images: [B, H, W, 3] sRGB.
            boxes: [B, 4], left, top, right, bottom, 0 to 1; the whole pictures where ``None``.
        """
        if boxes is None:
            boxes = np.tile(np.float32(_WHOLE), (len(images), 1))
        tight = tight_boxes(foreground(images), boxes)
        log_probabilities = []
        for start in range(0, len(images), _BATCH):
            part = np.s_[start : start + _BATCH]
            views = [_cut(images[part], chosen[part]) for chosen in (_square(boxes), tight)]
            views += [view.flip(3) for view in views]
            with torch.inference_mode():
                seen = [self.network(view).log_softmax(1) for view in views]
            log_probabilities.append(torch.stack(seen).mean(0).softmax(1))
        every = torch.cat(log_probabilities)
        probabilities, things = every.topk(min(KEPT, every.shape[1]), dim=1)
        return Recognition(things.numpy(), probabilities.numpy(), every.numpy())

    def recognise_pairs(
        self, images: NDArray[np.uint8], first: list[Thing], second: list[Thing]
    ) -> Pairs:
        """Tell whether pictures show two things, and on which sides.

        The likeliest of four arrangements is taken, by the product of both things' probabilities
        in their halves of the picture.

        Args:
            images: [B, H, W, 3] sRGB.
            first: A thing for each picture.
            second: Another one for each picture.
        """
        by_half = [
            self.recognise(images, np.tile(np.float32(_HALVES[side]), (len(images), 1)))
            for side in _SIDES
        ]
        one, two = self.labels(first), self.labels(second)
        rows = np.arange(len(images))
        scores = np.stack([
            np.log(by_half[side].every[rows, one] + 1e-9)
            + np.log(by_half[_OPPOSITE[side]].every[rows, two] + 1e-9)
            for side in range(len(_SIDES))
        ])  # fmt: skip
        best = scores.argmax(0)
        known_one = np.stack([half.knows(one) for half in by_half])
        known_two = np.stack([half.knows(two) for half in by_half])
        return Pairs(
            sides=tuple(_SIDES[side] for side in best),
            first=known_one[best, rows],
            second=known_two[np.array(_OPPOSITE)[best], rows],
        )


def _square(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the squares inside the picture that hold boxes' middles and shorter sides best."""
    squares = np.asarray(boxes, np.float32).copy()
    size = squares[:, 2:] - squares[:, :2]
    side = size.min(1)
    for axis in (0, 1):
        middle = (squares[:, axis] + squares[:, axis + 2]) / 2
        start = np.clip(middle - side / 2, 0, 1 - side)
        squares[:, axis], squares[:, axis + 2] = start, start + side
    return squares


def _cut(images: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Tensor:
    """Cut boxes out and scale them to the judge's view: → [B, 3, V, V], 0 to 1."""
    height, width = images.shape[1:3]
    views = []
    for image, box in zip(images, boxes, strict=True):
        left, top = np.floor(box[:2] * (width, height) + 0.5).astype(int)
        right, bottom = np.floor(box[2:] * (width, height) + 0.5).astype(int)
        part = torch.from_numpy(np.ascontiguousarray(image[top:bottom, left:right]))
        part = part.permute(2, 0, 1)[None].float() / 255
        views.append(
            functional.interpolate(part, (VIEW_PX, VIEW_PX), mode="bilinear", antialias=True)
        )
    return torch.cat(views)
