"""COCO as semantic segmentation, and where wanted as expressions by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from llmbind_cli.data.segmentation.absent import absent_names
from llmbind_cli.data.segmentation.annotations import (
    AnnotatedPicture,
    Annotations,
    finish_annotations,
    most_common,
    presence_facts,
)
from llmbind_cli.data.segmentation.coco import class_regions, coco_picture, read_coco_file
from llmbind_cli.data.segmentation.coco_places import count_facts, place_regions
from llmbind_cli.errors import InputDataError


def read_coco_instances(
    name: str,
    *,
    annotations: Path,
    photos: Path,
    images: Collection[int] | None = None,
    places: bool = False,
    skip_missing: bool = False,
) -> Annotations:
    """Read COCO: for each class of a photo, all things of it, crowds included.

    Args:
        name: Data source, for messages.
        annotations: For example ``annotations/instances_train2017.json``.
        photos: Folder that the file names start at, for example ``train2017``.
        images: Numbers of the photos to take; ``None`` takes all that have annotations.
        places: Ask for single things by class and place too, and count them.
        skip_missing: Leave out photos that are missing, and count them.

    Raises:
        InputDataError: The file is broken, has not all of ``images``, or photos are missing.
    """
    file = read_coco_file(annotations)
    unknown = sorted(set(images or ()) - file.images.keys())
    if unknown:
        raise InputDataError(
            f"{name}: {annotations} lacks {len(unknown)} of the images to take, first {unknown[0]}"
        )
    frequent = most_common(Counter(a.category for a in file.annotations.values()))
    pictures, empty = [], 0
    for image_id, found in file.by_image().items():
        if images is not None and image_id not in images:
            continue
        regions, counts, without = class_regions(found)
        empty += without
        facts = presence_facts(
            counts, absent_names(frequent, {a.category for a in found}, str(image_id))
        )
        if places:
            regions += place_regions(str(image_id), found)
            facts += tuple(count_facts(found))
        if regions:
            pictures.append(
                AnnotatedPicture(
                    id=str(image_id),
                    picture=coco_picture(file.images[image_id], photos, "coco"),
                    regions=tuple(regions),
                    facts=facts,
                )
            )
    return finish_annotations(
        name, pictures, skip_missing=skip_missing, files=[annotations], empty=empty
    )
