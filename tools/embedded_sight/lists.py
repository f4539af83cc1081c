"""Batches whose pictures are listed otherwise than the bundle's projector lists them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

import torch
from resumable.precision import cpu_autocast
from torch import Tensor

from embedded_sight.names import Names
from llmbind_cli.data.batches import Batch
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.pictures import ScenePicture
from llmbind_cli.data.scenes.world import Thing
from llmbind_cli.data.spellings import SEGMENT
from llmbind_cli.nn.list_pointer import ListedThings
from llmbind_cli.nn.object_projector import CellScores, FoundObjects, ObjectProjector
from llmbind_cli.training.seeing import SeeingCollator

if TYPE_CHECKING:
    from llmbind_cli.data.pictures import PictureSource
    from llmbind_cli.model.vision.sight import Sight

_NEVER = -1e4
"""Logit of a name that nothing bears."""


class _Lists(SeeingCollator, ABC):
    """Makes batches that hold the positions of the language model in place of the tower's features.

    Args:
        sight: Its embeddings pass as they are from now on.
        names: Of the things.
    """

    def __init__(self, sight: Sight, names: Names) -> None:
        super().__init__(sight)
        sight.embeddings = lambda features: features
        self._names = names
        self._things: list[ListedThings] = []

    def __call__(self, samples: Sequence[EncodedSample]) -> Batch:
        """Pad the ids of samples, and list their pictures; errors as of the class above."""
        self._things = []
        batch = super().__call__(samples)
        if batch.seen is None or not len(batch.seen.pictured):
            return batch
        chosen = [self._things[row] for row in batch.seen.pictured.tolist()]
        things = ListedThings(*map(torch.cat, zip(*chosen, strict=True)))
        return dataclasses.replace(batch, seen=dataclasses.replace(batch.seen, things=things))

    @torch.no_grad()
    def _features(self, sample: Sample) -> list[Tensor]:
        """Return what the language model is to read of a sample's pictures, [num_tokens, D]."""
        projector = self._sight.projector
        found = [self._found(sample, picture) for picture in sample.pictures]
        self._things += [projector.things(one) for one in found]
        return [projector.listed(one)[0] for one in found]

    @abstractmethod
    def _found(self, sample: Sample, picture: PictureSource) -> FoundObjects:
        """Return what is listed of a sample's picture."""


class TrueLists(_Lists):
    """Makes batches in which a projector of object tokens errs nowhere.

    Args:
        sight: Its projector is filled with the names.
        names: Of the things.
    """

    def __init__(self, sight: Sight, names: Names) -> None:
        super().__init__(sight, names)
        names.fill(sight.projector)

    def _found(self, _: Sample, picture: PictureSource) -> FoundObjects:
        """Return what is in a picture."""
        return self._names.found(picture, self._sight.projector.most)


class StrangeLists(_Lists):
    """Makes batches in which the projector cannot name some of the things, as if it never had.

    A thing that training never saw is listed by what it looks like. Here some of those that it did
    see lose their names: what the projector would take each for otherwise is listed. So the
    language model meets words for things whose names are in no list.

    Args:
        sight: Its projector sees.
        names: Of the things.
        share: Of the kinds of things in a picture that lose their names, in [0, 1].

    Raises:
        ValueError: The share is another.
    """

    def __init__(self, sight: Sight, names: Names, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of strange things must be in [0, 1], got {share}")
        super().__init__(sight, names)
        self._share = share

    def _found(self, sample: Sample, picture: PictureSource) -> FoundObjects:
        """Return what the projector finds in a picture, some names apart."""
        projector = self._sight.projector
        features = self._sight.tower_features([picture.load()])
        with cpu_autocast():
            refined = projector.refined(features)
        scores = projector.scores(refined.float())
        strange = [*strange_names(sample, picture, self._names, self._share)]
        return found_without(projector, scores, strange)


def found_without(
    projector: ObjectProjector, scores: CellScores, strange: Sequence[int]
) -> FoundObjects:
    """Return what a projector finds where some names are none.

    Args:
        projector: Of object tokens.
        scores: Of its cells.
        strange: Numbers of the names.
    """
    names = scores.names.clone()
    names[..., list(strange)] = _NEVER
    return projector.find(scores._replace(names=names))


def strange_names(
    sample: Sample, picture: PictureSource, names: Names, share: float
) -> Iterator[int]:
    """Yield the numbers of the names that a picture's list does without.

    What a reply names without marking it keeps its name: nothing else could tell it.

    Args:
        sample: What is said about the picture; its id decides.
        picture: A scene; a photo has no things.
        names: Of the things.
        share: Of the kinds of things, in [0, 1].
    """
    if not isinstance(picture, ScenePicture):
        return
    chance = Random(f"strange/{sample.id}")
    told = [turn.text.lower() for turn in sample.turns if turn.role == "assistant"]
    told = [text for text in told if SEGMENT not in text]
    things = {placed.thing.name: placed.thing for placed in picture.arrangement.things}
    for name, thing in sorted(things.items()):
        number = names.number.get(name)
        if number is not None and chance.random() < share and not _is_told(thing, told):
            yield number


def _is_told(thing: Thing, replies: Sequence[str]) -> bool:
    """Tell whether replies have one of a thing's names, of one or of several."""
    words = [word.lower() for noun in thing.names for word in (noun.one, noun.many) if word]
    return any(word in reply for word in words for reply in replies)
