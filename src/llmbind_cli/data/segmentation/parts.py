"""PACO-LVIS, PartImageNet and PASCAL-Part: the parts of things, in COCO's form.

Ramanathan et al. 2023 (arXiv 2301.01795), He et al. 2022 (arXiv 2112.00933), Chen et al. 2014
(arXiv 1406.2031) as facebookresearch/VLPart converts it. The folders are those of LISA
(dvlab-research/LISA 3cb2d43), and for PartImageNet those of VLPart.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmbind_cli.data.masks import MaskSource
from llmbind_cli.data.pictures import PictureFile, picture_key
from llmbind_cli.data.segmentation.annotations import (
    AnnotatedPicture,
    Annotations,
    Region,
    finish_annotations,
)
from llmbind_cli.data.segmentation.coco import CocoImage, read_coco_file, united
from llmbind_cli.errors import InputDataError

PartDataset = Literal["paco_lvis", "part_imagenet", "pascal_part"]

_SPELLED = {"tier": "tire"}
"""PartImageNet's own spelling → the word."""


@dataclass(frozen=True, slots=True)
class _Layout:
    annotations: str
    photos: str


_LAYOUTS = {
    "paco_lvis": _Layout("vlpart/paco/annotations/paco_lvis_v1_{split}.json", "coco"),
    "part_imagenet": _Layout("vlpart/partimagenet/{split}.json", "vlpart/partimagenet/{split}"),
    "pascal_part": _Layout(
        "vlpart/pascal_part/{split}.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"
    ),
}


def read_parts(
    name: str,
    *,
    root: Path,
    dataset: PartDataset,
    split: str = "train",
    skip_missing: bool = False,
) -> Annotations:
    """Read one split of a data set of parts.

    Deviation: LISA asks for the part of one thing by words that fit that of every other one as
    well. Here an expression means the part of all things of its class, so that the words are true.

    Args:
        name: Data source, for messages.
        root: The common folder, with ``vlpart/`` and ``coco/``.
        dataset: Which.
        split: ``train`` or ``val``.
        skip_missing: Leave out photos that are missing, and count them.

    Returns:
        For each photo, its parts, each as "the PART of the OBJECT" and "OBJECT PART", and in
        PACO-LVIS whole objects as well.

    Raises:
        InputDataError: A file is missing or broken, or photos are missing.
    """
    layout = _LAYOUTS[dataset]
    file = read_coco_file(root / layout.annotations.format(split=split))
    photos = root / layout.photos.format(split=split)
    named = {
        category: part_names(category, dataset, str(file.path))
        for category in file.categories.values()
    }
    pictures, empty = [], 0
    for image_id, found in file.by_image().items():
        masks: dict[str, list[MaskSource]] = defaultdict(list)
        for annotation in found:
            if annotation.mask is None:
                empty += 1
            else:
                masks[annotation.category].append(annotation.mask)
        regions = tuple(
            Region(
                names=named[category],
                naming="part" if len(named[category]) > 1 else "class",
                mask=united(parts),
                category=named[category][-1],
            )
            for category, parts in masks.items()
        )
        if regions:
            photo = _photo(file.images[image_id], photos, dataset)
            pictures.append(AnnotatedPicture(id=str(image_id), picture=photo, regions=regions))
    return finish_annotations(
        name, pictures, skip_missing=skip_missing, files=[file.path], empty=empty
    )


def part_names(category: str, dataset: PartDataset, where: str) -> tuple[str, ...]:
    """Return how a category is spoken of.

    Args:
        category: ``trash_can:rim``, ``bench_(seat)``, ``aeroplane:wing`` or ``Quadruped Head``.
        dataset: Whose it is.
        where: File, for messages.

    Raises:
        InputDataError: It names no object, or no part where it must.
    """
    if dataset == "part_imagenet":
        whole, _, part = category.partition(" ")
    else:
        whole, _, part = category.partition(":")
    whole, part = _words(whole), _words(part)
    if not whole or (not part and dataset != "paco_lvis"):
        raise InputDataError(f"{where}: the category {category!r} names no part of an object")
    if not part:
        return (whole,)
    return (f"the {part} of the {whole}", f"{whole} {part}")


def _words(text: str) -> str:
    """Return a name without what stands in brackets after it, in words."""
    words = text.partition("_(")[0].replace("_", " ").lower().split()
    return " ".join(_SPELLED.get(word, word) for word in words)


def _photo(image: CocoImage, photos: Path, dataset: PartDataset) -> PictureFile:
    file_name = image.file_name
    # PartImageNet's own files leave out the folder of the class, VLPart's have it.
    if dataset == "part_imagenet" and "/" not in file_name:
        file_name = f"{file_name.partition('_')[0]}/{file_name}"
    return PictureFile(photos / file_name, picture_key(dataset, file_name))
