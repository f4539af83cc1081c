"""What the language model makes of words for masks, read once and kept.

Notation: ``M`` masks, ``N`` pictures, ``D`` width of the language model, ``S`` side of the labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from embedded_sight.speaking import encoded, read_states
from llmbind_cli.data.batches import SeenBatch
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.sample import IGNORED, Sample
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.nn.list_pointer import ListedThings
from llmbind_cli.training.seeing import SeeingCollator
from llmbind_cli.training.sight_losses import listed_things

_AT_PLACE = 0.08
"""Share of the square that the middle of a mask may be away from a thing's place, to be of it."""


@dataclass(frozen=True, kw_only=True)
class ReadMasks:
    """Pictures and what the language model makes of the words for masks in them.

    Attributes:
        maps: Of the grounding encoder, finest first, each bfloat16 [N, C, h, w].
        states: Those that predict the ``seg`` tokens, [M, D].
        labels: The masks, uint8 [M, S, S]: 1, 0 or 255.
        image_of: Picture of each mask, [M].
        things: What the projector lists of the pictures, where the decoder points at it; in
            bfloat16.
    """

    maps: tuple[Tensor, ...]
    states: Tensor
    labels: Tensor
    image_of: Tensor
    things: ListedThings | None = None

    @classmethod
    def of(cls, parts: Sequence[ReadMasks]) -> ReadMasks:
        """Put several one after another."""
        counts = [0, *(len(part.maps[0]) for part in parts)]
        starts = torch.tensor(counts).cumsum(0)
        lists = [part.things for part in parts if part.things is not None]
        if len(lists) not in (0, len(parts)):
            raise ValueError("all that was read must tell of lists, or nothing")
        return cls(
            maps=tuple(torch.cat(scale) for scale in zip(*(p.maps for p in parts), strict=True)),
            states=torch.cat([part.states for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            image_of=torch.cat(
                [part.image_of + start for part, start in zip(parts, starts[:-1], strict=True)]
            ),
            things=_joined(lists),
        )

    def split(self, every: int) -> tuple[ReadMasks, ReadMasks]:
        """Set every so many-th picture apart.

        Returns:
            The masks of the other pictures, and those of the pictures set apart.
        """
        apart = torch.arange(len(self.maps[0])) % every == every - 1
        return self._of(~apart), self._of(apart)

    def _of(self, pictures: Tensor) -> ReadMasks:
        """Return the masks of some pictures, bool [N]."""
        wanted = pictures[self.image_of]
        number = pictures.cumsum(0) - 1
        return ReadMasks(
            maps=tuple(scale[pictures] for scale in self.maps),
            states=self.states[wanted],
            labels=self.labels[wanted],
            image_of=number[self.image_of[wanted]],
            things=None if self.things is None else _rows(self.things, pictures),
        )

    def listed(self, pictures: Tensor | None = None) -> ListedThings | None:
        """Return the lists of some pictures, or of all, as the decoder takes them."""
        if self.things is None:
            return None
        things = self.things if pictures is None else _rows(self.things, pictures)
        return things._replace(told=things.told.float(), places=things.places.float())

    @classmethod
    def load(cls, path: Path) -> ReadMasks:
        """Read what :meth:`save` wrote."""
        read = torch.load(path, weights_only=True)
        things = read.pop("things", None)
        return cls(**read, things=None if things is None else ListedThings(*things))

    def save(self, path: Path) -> None:
        """Write it to a file."""
        things = None if self.things is None else tuple(self.things)
        torch.save({**vars(self), "things": things}, path)


def read_masks(
    model: BoundModel,
    samples: Iterable[Sample],
    *,
    finer: int = 1,
    collated: SeeingCollator | None = None,
) -> ReadMasks:
    """Have the language model read dialogues, each about one picture.

    Args:
        model: It sees and cuts out.
        samples: The dialogues; those about the same picture need not stand together.
        finer: How many pixels of the grounding encoder's square, across and down, make one label.
        collated: Makes batches of the dialogues; by default of what the model sees.
    """
    shown: list[str] = []

    def told() -> Iterator[EncodedSample]:
        for sample in samples:
            one = encoded(model, sample)
            if one.pointing:
                shown.append(str(sample.image))
            yield one

    numbers: dict[str, int] = {}
    maps: list[tuple[Tensor, ...]] = []
    lists: list[ListedThings] = []
    states, labels, image_of = [], [], []
    read = 0
    for seen, found in read_states(model, told(), collated=collated):
        states.append(found)
        labels.append(_coarser(seen.labels, finer))
        pictures = shown[read : read + len(seen.maps[0])]
        read += len(pictures)
        listed = _listed(model, seen)
        for row, picture in enumerate(pictures):
            if picture not in numbers:
                numbers[picture] = len(maps)
                maps.append(tuple(scale[row].bfloat16() for scale in seen.maps))
                if listed is not None:
                    lists.append(_rows(listed, torch.tensor([row])))
        image_of += [numbers[pictures[row]] for row in seen.image_of.tolist()]
    return ReadMasks(
        maps=tuple(torch.stack(scale) for scale in zip(*maps, strict=True)),
        states=torch.cat(states),
        labels=torch.cat(labels),
        image_of=torch.tensor(image_of),
        things=_joined(lists),
    )


def _listed(model: BoundModel, seen: SeenBatch) -> ListedThings | None:
    """Return what is listed of the pictures with masks, to be kept."""
    if model.sight is None or not model.sight.points:
        return None
    things = listed_things(model.sight, seen)
    return things and things._replace(told=things.told.bfloat16(), places=things.places.bfloat16())


def _joined(lists: Sequence[ListedThings]) -> ListedThings | None:
    """Put lists of pictures one after another."""
    return ListedThings(*map(torch.cat, zip(*lists, strict=True))) if lists else None


def _rows(things: ListedThings, pictures: Tensor) -> ListedThings:
    """Return the lists of some pictures."""
    return ListedThings(*(one[pictures] for one in things))


def _coarser(labels: Tensor, finer: int) -> Tensor:
    """Let squares of labels [M, S, S] be told by their majority; one that holds a 255 is 255."""
    if finer == 1:
        return labels
    covered = functional.avg_pool2d((labels == 1)[:, None].float(), finer)[:, 0] >= 0.5
    left_out = functional.max_pool2d((labels == IGNORED)[:, None].float(), finer)[:, 0] > 0
    return covered.byte().masked_fill(left_out, IGNORED)


def meant_things(labels: Tensor, things: ListedThings, image_of: Tensor) -> Tensor:
    """Return the number of the listed thing whose mask each is, -1 where there is none, [M]."""
    shown = (labels == 1).float()
    middles = (torch.arange(labels.shape[-1]) + 0.5) / labels.shape[-1]
    area = shown.sum((1, 2)).clamp(min=1)
    across, down = ((shown.sum(axis) * middles).sum(1) / area for axis in (1, 2))
    away = (things.places[image_of] - torch.stack([across, down], dim=1)[:, None]).norm(dim=2)
    distance, which = away.masked_fill(~things.present[image_of], torch.inf).min(1)
    return torch.where(distance < _AT_PLACE, which, -1)
