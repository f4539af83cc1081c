"""A recipe's tables of pictures as samples, one after another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmbind_cli.data.sample import Sample
from llmbind_cli.data.segmentation.annotations import AnnotatedPicture, Annotations, SourceTask
from llmbind_cli.data.segmentation.asking import Asking
from llmbind_cli.errors import InputDataError
from llmbind_cli.recipes.picture_schema import (
    AnnotatedTable,
    Coco128Source,
    CocoSource,
    LabelMapSource,
    MaskedSource,
    Part,
    PartSource,
    ReasonSegSource,
    ReferSource,
    SceneSource,
)
from llmbind_cli.recipes.shares import KIND_PARTS

_TASKS: dict[Part, SourceTask] = {
    "semantic": "semantic",
    "refer": "refer",
    "reason": "reason",
    "vqa": "refer",
    "interactive": "refer",
}
"""What a source counts as → what its samples with masks teach."""


class PictureSamples(Iterator[Sample]):
    """The samples of one table.

    Nothing is read before the first sample is asked for; then everything that the table names is
    checked, so that what is missing is known before training starts.

    Args:
        source: The table.

    Attributes:
        files: The files that were read, photos and reasons apart.
        counts: What they held, for the manifest.
        told: The same in words.
    """

    def __init__(self, source: MaskedSource) -> None:
        self.files: tuple[Path, ...] = ()
        self.counts: dict[str, Any] = {}
        self.told = ""
        self._stream = (
            self._scenes(source) if isinstance(source, SceneSource) else self._asked(source)
        )

    def __next__(self) -> Sample:
        """Return the next sample.

        Raises:
            InputDataError: A file is missing or broken, or pictures are missing.
        """
        return next(self._stream)

    def _asked(self, source: AnnotatedTable) -> Iterator[Sample]:
        annotations = read_annotations(source)
        self.files = annotations.files
        self.counts = annotations.counts.as_fields()
        self.told = str(annotations.counts)
        asking = Asking(
            source=source.name,
            task=_TASKS[source.part or KIND_PARTS[source.kind]],
            seed=source.seed,
            expressions=source.expressions,
            plain=source.plain,
            tied=source.tied,
        )
        chosen = _chosen(annotations.pictures, source.pictures)
        self.counts["taken"] = len(chosen)
        for picture in chosen:
            yield from asking.samples(picture)

    def _scenes(self, source: SceneSource) -> Iterator[Sample]:
        from llmbind_cli.data.scenes.arrangements import GROUNDS, ArrangementSampler
        from llmbind_cli.data.scenes.grounds import list_photos
        from llmbind_cli.data.scenes.pictures import SceneRenderer
        from llmbind_cli.data.scenes.questions import QUESTIONS, SceneQuestions
        from llmbind_cli.data.scenes.sprites import Sprites
        from llmbind_cli.data.scenes.world import load_world

        world = load_world()
        sprites = Sprites.load(source.sprites)
        lacking = [c for thing in world for c in thing.codes if c not in sprites]
        if lacking:
            raise InputDataError(
                f"{source.name}: {source.sprites} lacks {len(lacking)} sprites, first {lacking[0]}"
            )
        self.files = (source.sprites,)
        photos = list_photos(source.photos) if source.photos is not None else ()
        self.counts = {"pictures": source.count, "photos": len(photos)}
        self.told = f"{source.count:,} scenes, {len(photos):,} photos to stand behind them"
        try:
            sampler = ArrangementSampler(
                world,
                source.seed,
                split=source.split,
                photos=photos,
                grounds=source.grounds or GROUNDS,
            )
            questions = SceneQuestions(
                sampler,
                SceneRenderer(sprites, source.size_px),
                name=source.name,
                questions=source.questions or QUESTIONS,
                turns=source.turns,
                tied=source.tied,
                near=source.near,
                held_out_targets=source.split == "held_out_things",
            )
            for number in range(source.count):
                yield questions[number]
        except ValueError as error:
            raise InputDataError(f"{source.name}: {error}") from None


def read_annotations(source: AnnotatedTable) -> Annotations:
    """Read the data set that a table names.

    Raises:
        InputDataError: A file is missing or broken, or pictures are missing.
    """
    from llmbind_cli.data.segmentation.coco128 import read_coco128
    from llmbind_cli.data.segmentation.instances import read_coco_instances
    from llmbind_cli.data.segmentation.label_maps import read_label_maps
    from llmbind_cli.data.segmentation.parts import read_parts
    from llmbind_cli.data.segmentation.reason_seg import read_reason_seg
    from llmbind_cli.data.segmentation.refer import read_refer

    name, skip = source.name, source.skip_missing
    match source:
        case ReferSource():
            return read_refer(
                name,
                root=source.root,
                dataset=source.dataset,
                split=source.split,
                split_by=source.split_by,
                photos=source.photos,
                skip_missing=skip,
            )
        case ReasonSegSource():
            return read_reason_seg(
                name,
                root=source.root,
                splits=tuple(source.splits),
                explanations=source.explanations,
                skip_missing=skip,
            )
        case LabelMapSource():
            return read_label_maps(
                name,
                root=source.root,
                dataset=source.dataset,
                split=source.split,
                classes=source.classes,
                skip_missing=skip,
            )
        case PartSource():
            return read_parts(
                name,
                root=source.root,
                dataset=source.dataset,
                split=source.split,
                skip_missing=skip,
            )
        case CocoSource():
            return read_coco_instances(
                name,
                annotations=source.annotations,
                photos=source.photos,
                places=source.places,
                skip_missing=skip,
            )
        case Coco128Source():
            return read_coco128(name, root=source.root, split=source.split, skip_missing=skip)


def _chosen(pictures: tuple[AnnotatedPicture, ...], count: int | None) -> list[AnnotatedPicture]:
    """Return so many pictures, by a hash of their names: a larger count holds a smaller one's."""
    if count is None or count >= len(pictures):
        return list(pictures)

    def place(picture: AnnotatedPicture) -> bytes:
        return hashlib.blake2b(picture.id.encode(), digest_size=8).digest()

    kept = {picture.id for picture in sorted(pictures, key=place)[:count]}
    return [picture for picture in pictures if picture.id in kept]
