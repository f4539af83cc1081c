"""Batches whose pictures are listed otherwise than the bundle's projector lists them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

import torch
from resumable.precision import cpu_autocast
from torch import Tensor

from embedded_sight.names import Names
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.pictures import ScenePicture
from llmbind_cli.data.scenes.world import Thing
from llmbind_cli.data.spellings import SEGMENT
from llmbind_cli.nn.object_projector import CellScores, FoundObjects
from llmbind_cli.training.seeing import SeeingCollator

if TYPE_CHECKING:
    from llmbind_cli.data.pictures import PictureSource
    from llmbind_cli.model.vision.sight import Sight

_NEVER = -1e4
"""Logit of a name that nothing bears."""


class _Lists(SeeingCollator):
    """Makes batches that hold the positions of the language model in place of the tower's features.

    Args:
        sight: Its embeddings pass as they are from now on.
        names: Of the things.
    """

    def __init__(self, sight: Sight, names: Names) -> None:
        super().__init__(sight)
        sight.embeddings = lambda features: features
        self._names = names


class TrueLists(_Lists):
    """Makes batches in which a projector of object tokens errs nowhere.

    Args:
        sight: Its projector is filled with the names.
        names: Of the things.
    """

    def __init__(self, sight: Sight, names: Names) -> None:
        super().__init__(sight, names)
        names.fill(sight.projector)

    @torch.no_grad()
    def _features(self, sample: Sample) -> list[Tensor]:
        """Return what the language model is to read of a sample's pictures, [num_tokens, D]."""
        projector = self._sight.projector
        found = [self._names.found(picture, projector.most) for picture in sample.pictures]
        return [projector.listed(one)[0] for one in found]


class StrangeLists(_Lists):
    """Makes batches in which the projector cannot name some of the things, as if it never had.

    A thing that training never saw is listed by what it looks like. Here some of those that it did
    see lose their names: what the projector would take each for otherwise is listed. So the
    language model meets words for things whose names are in no list.

    Args:
        sight: Its projector sees.
        names: Of the things.
        share: Of the kinds of things in a picture that lose their names, in [0, 1].
    """

    def __init__(self, sight: Sight, names: Names, share: float) -> None:
        super().__init__(sight, names)
        self._share = share

    @torch.no_grad()
    def _features(self, sample: Sample) -> list[Tensor]:
        """Return what the language model is to read of a sample's pictures, [num_tokens, D]."""
        projector = self._sight.projector
        listed = []
        for picture in sample.pictures:
            features = self._sight.tower_features([picture.load()])
            with cpu_autocast():
                refined = projector.refined(features)
            scores = projector.scores(refined.float())
            strange = [*strange_names(sample, picture, self._names, self._share)]
            listed.append(projector.listed(found_without(projector, scores, strange))[0])
        return listed


def found_without(projector: object, scores: CellScores, strange: Sequence[int]) -> FoundObjects:
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
