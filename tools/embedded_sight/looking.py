"""Looking at drawn scenes with the frozen networks, and keeping what was seen to ask again."""

from __future__ import annotations

import abc
import random
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset

from embedded_sight.drawings import DrawingRenderer, Samples
from embedded_sight.names import Names
from llmbind_cli.data.sample import Sample
from llmbind_cli.model.vision.sight import Sight

_SOFT, _SMALLEST, _BLUR_PX = 0.35, 0.375, 1.2
"""Share of the pictures to learn from that are made small and blurred, as those of generators are;
the least share of their side that is left, and the greatest blur of what is left."""


class _Copied(Protocol):
    def clone(self: _Seen) -> _Seen:
        """Copy the tensors."""


_Seen = TypeVar("_Seen", bound=_Copied)


class Looking(abc.ABC, Generic[_Seen]):
    """Looks at scenes, and keeps what it has seen.

    Args:
        questions: The scenes, with what may be asked of them.
        names: Of the things in them.
        sight: The frozen networks.
        kept: Pictures kept.
        soft: Share of the pictures that are made small and blurred before the networks see them.
    """

    def __init__(
        self,
        *,
        questions: Samples,
        names: Names,
        sight: Sight,
        kept: int = 4000,
        soft: float = _SOFT,
    ) -> None:
        self.names, self.sight = names, sight
        self._questions, self._most, self._soft = questions, kept, soft
        self._kept: list[_Seen] = []

    @abc.abstractmethod
    def look(self, numbers: range) -> list[_Seen]:
        """Draw scenes and look at them."""

    def drawn(self, numbers: range) -> tuple[list[Sample], list[Image.Image]]:
        """Draw scenes; the pictures are as the networks are to see them."""
        samples = [self._questions[number] for number in numbers]
        pictures = [
            self._shown(sample.pictures[0], random.Random(f"soft/{number}"))
            for number, sample in zip(numbers, samples, strict=True)
        ]
        return samples, pictures

    def batches(
        self, steps: range, fresh: int, again: int, *, workers: int = 0
    ) -> Iterator[list[_Seen]]:
        """Yield for each step new pictures, and some of those kept.

        Args:
            steps: Numbers of the steps.
            fresh: New pictures a step.
            again: Pictures seen before, a step.
            workers: Processes that look ahead; 0 to look in this one.
        """
        loader: Iterable[list[_Seen]] = DataLoader(
            _Fresh(self, steps, fresh), batch_size=None, num_workers=workers
        )
        for step, looked in zip(steps, loader, strict=True):
            chance = random.Random(f"again/{step}")
            known = [chance.choice(self._kept) for _ in range(again)] if self._kept else []
            # To keep what another process sent would keep a file open for each tensor.
            new = [one.clone() for one in looked] if workers else looked
            for one in new:
                if len(self._kept) < self._most:
                    self._kept.append(one)
                else:
                    self._kept[chance.randrange(self._most)] = one
            yield [*new, *known]

    def _shown(self, scene: Any, chance: random.Random) -> Image.Image:
        """Return a scene as it is, or made soft; a drawing of one is soft already."""
        picture: Image.Image = scene.load()
        if chance.random() >= self._soft or isinstance(scene.renderer, DrawingRenderer):
            return picture
        side = round(chance.uniform(_SMALLEST, 1) * picture.width)
        blur = ImageFilter.GaussianBlur(chance.uniform(0, _BLUR_PX))
        return picture.resize((side, side), Image.Resampling.BOX).filter(blur)


class _Fresh(Dataset[list[_Seen]]):
    """The new pictures of each step."""

    def __init__(self, looking: Looking[_Seen], steps: range, fresh: int) -> None:
        self._looking, self._steps, self._fresh = looking, steps, fresh

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> list[_Seen]:
        step = self._steps[number]
        return self._looking.look(range(step * self._fresh, (step + 1) * self._fresh))
