"""What the pictures of a recipe hold, those to be scored on among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from llmbind_cli.data.sample import Sample
from llmbind_cli.errors import InputDataError
from llmbind_cli.recipes.dialogue_schema import BuiltDialogues
from llmbind_cli.recipes.picture_schema import MaskedSource, SceneSource
from llmbind_cli.recipes.schema import Recipe, Source
from llmbind_cli.training.overlap import UsedPictures, overlap_message, shared_pictures
from llmbind_cli.training.samples import TrainingData
from llmbind_cli.training.sources import read_source

SHOWN = 3
"""Samples of each source that are written as pictures."""


@dataclass(kw_only=True)
class EvaluationSurvey:
    """What a source to be scored on holds.

    Attributes:
        name: Its name in the recipe.
        kind: Its kind.
        dialogues: Samples; of scenes, those that were looked at.
        pictures: Different pictures in them.
        masks: Masks in them.
        skipped: Pictures left out because they are missing.
    """

    name: str
    kind: str
    dialogues: int
    pictures: int
    masks: int
    skipped: int


@dataclass
class PicturedSamples:
    """The samples of one source that were looked at.

    Attributes:
        name: Its name.
        keys: Names of their pictures.
        masks: Number of their masks.
        samples: Name of the source, and one of its first samples, each of another picture; those
            with masks are preferred.
    """

    name: str
    keys: set[str] = field(default_factory=set)
    masks: int = 0
    samples: list[tuple[str, Sample]] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Count a sample."""
        is_new = sample.pictures[0].key not in self.keys
        self.keys.update(picture.key for picture in sample.pictures)
        self.masks += len(sample.segments)
        if is_new and len(self.samples) < SHOWN:
            self.samples.append((self.name, sample))
        elif sample.segments and not self.samples[-1][1].segments:
            self.samples[-1] = (self.name, sample)


@dataclass(frozen=True, kw_only=True)
class EvaluationSource:
    """A source to be scored on, and its first samples.

    Attributes:
        survey: What it holds.
        samples: Samples to look at.
    """

    survey: EvaluationSurvey
    samples: Sequence[tuple[str, Sample]]


def survey_evaluation(
    sources: Sequence[MaskedSource], *, most_scenes: int = 2000
) -> tuple[list[EvaluationSource], UsedPictures, list[str]]:
    """Read every source that the result will be scored on.

    Args:
        sources: Their tables.
        most_scenes: Drawn scenes that are looked at; the first stand for all.

    Returns:
        What each holds, the pictures of all, and what is missing or malformed.
    """
    found: list[EvaluationSource] = []
    used = UsedPictures()
    problems = []
    for source in sources:
        seen = PicturedSamples(source.name)
        reader = read_source(beginning(source, most_scenes))
        try:
            for sample in reader:
                if isinstance(sample, Sample):
                    seen.add(sample)
                    used.add(sample.pictures, source.name)
        except InputDataError as error:
            problems.append(str(error))
            continue
        survey = EvaluationSurvey(
            name=source.name,
            kind=source.kind,
            dialogues=reader.dialogues,
            pictures=len(seen.keys),
            masks=seen.masks,
            skipped=reader.skipped,
        )
        found.append(EvaluationSource(survey=survey, samples=seen.samples))
    return found, used, problems


def pictures_to_score_on(recipe: Recipe) -> UsedPictures:
    """Return the pictures that a recipe's result is scored on; none where it allows an overlap.

    Raises:
        InputDataError: A source to be scored on is missing or malformed.
    """
    if recipe.overlap == "allow":
        return UsedPictures()
    _, used, problems = survey_evaluation(recipe.evaluation)
    if problems:
        raise InputDataError("; ".join(problems))
    return used


def refuse_overlap(data: TrainingData, evaluated: UsedPictures) -> None:
    """Make sure that training has no picture that its result is scored on.

    Args:
        data: All samples to train on.
        evaluated: The pictures of :func:`pictures_to_score_on`.

    Raises:
        InputDataError: It has some, by name or by content.
    """
    if not evaluated.by_key:
        return
    trained, samples = UsedPictures(), iter(data.samples)
    for source, size in zip(data.sources, data.sizes, strict=True):
        for encoded in islice(samples, size):
            if encoded.sample is not None:
                trained.add(encoded.sample.pictures, source["name"])
    if shared := shared_pictures(trained, evaluated):
        raise InputDataError(overlap_message(shared))


def beginning(source: Source, most: int) -> Source:
    """Return a source that builds or draws only its first dialogues, which stand for all."""
    if not isinstance(source, BuiltDialogues | SceneSource):
        return source
    return source.model_copy(update={"count": min(source.count, most)})
