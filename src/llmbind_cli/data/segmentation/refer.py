"""refCOCO, refCOCO+, refCOCOg and refCLEF: people's expressions for single things.

Kazemzadeh et al. 2014, Yu et al. 2016 (arXiv 1608.00272), Mao et al. 2016 (arXiv 1511.02283). The
layout is that of lichengunc/refer: ``DATASET/refs(SPLIT_BY).p`` with the expressions and
``DATASET/instances.json`` with the masks, beside the folder of the photos.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

from llmbind_cli.data.segmentation.absent import absent_names
from llmbind_cli.data.segmentation.annotations import (
    AnnotatedPicture,
    Annotations,
    Fact,
    Region,
    field_of,
    finish_annotations,
    most_common,
    presence_facts,
    read_json,
)
from llmbind_cli.data.segmentation.coco import CocoFile, class_regions, coco_picture, read_coco_file
from llmbind_cli.data.segmentation.plain_pickle import load_plain_pickle
from llmbind_cli.errors import InputDataError

ReferDataset = Literal["refcoco", "refcoco+", "refcocog", "refclef"]

SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "refclef": "unc"}
"""Who split each data set, as LISA reads it (3cb2d43, ``utils/refer_seg_dataset.py``)."""

PHOTOS = {
    "refcoco": "images/mscoco/images/train2014",
    "refcoco+": "images/mscoco/images/train2014",
    "refcocog": "images/mscoco/images/train2014",
    "refclef": "images/saiapr_tc-12",
}
"""Where each data set's photos lie below the common folder."""


def read_refer(
    name: str,
    *,
    root: Path,
    dataset: ReferDataset,
    split: str,
    split_by: str | None = None,
    photos: Path | None = None,
    skip_missing: bool = False,
) -> Annotations:
    """Read one split of a data set of expressions.

    Args:
        name: Data source, for messages.
        root: The common folder, which holds ``refcoco/``, ``images/`` and so on.
        dataset: Its name, which is that of its folder.
        split: ``train``, ``val``, ``test``, ``testA``, ``testB`` or ``testC``; ``test`` takes every
            test part, and ``testA`` those whose name has an A.
        split_by: Who split it: ``unc``, ``umd``, ``google`` or ``berkeley``; by default the one of
            ``SPLIT_BY``.
        photos: Folder of the photos, where it is not that of ``PHOTOS``.
        skip_missing: Leave out photos that are missing, and count them.

    Returns:
        For each photo of the split, the things that expressions speak of, each with all of its
        expressions.

    Raises:
        InputDataError: A file is missing, broken or holds more than plain values; a record names
            what is not there; no expression is in the split; or photos are missing.
    """
    folder = root / dataset
    expressions = _expression_file(folder, split_by or SPLIT_BY[dataset])
    is_pickle = expressions.suffix == ".p"
    records = load_plain_pickle(expressions) if is_pickle else read_json(expressions)
    if not isinstance(records, list):
        raise InputDataError(f"{expressions}: must hold a list of expressions")
    file = read_coco_file(folder / "instances.json")
    regions: dict[int, list[Region]] = defaultdict(list)
    empty = 0
    for number, record in enumerate(records):
        where = f"{expressions}: ref {number}"
        if _is_in_split(field_of(record, "split", str, where), split):
            image_id, region = _region(record, file, where)
            if region is None:
                empty += 1
            else:
                regions[image_id].append(region)
    if not regions:
        found = sorted({str(record["split"]) for record in records})
        raise InputDataError(
            f"{expressions}: no expression is of the split {split!r}; it has {', '.join(found)}"
        )
    photos = photos or root / PHOTOS[dataset]
    pictures = _pictures(file, regions, photos, dataset)
    return finish_annotations(
        name, pictures, skip_missing=skip_missing, files=[expressions, file.path], empty=empty
    )


def _expression_file(folder: Path, split_by: str) -> Path:
    """Return the pickle, or the same list as JSON where that lies beside it or instead of it."""
    converted = folder / f"refs({split_by}).json"
    return converted if converted.is_file() else folder / f"refs({split_by}).p"


def _is_in_split(found: str, wanted: str) -> bool:
    """Tell whether a record belongs to a split, as lichengunc/refer reads it."""
    if wanted == "test":
        return "test" in found
    if wanted in ("testA", "testB", "testC"):
        return found.startswith("test") and wanted[-1] in found[4:]
    return found == wanted


def _region(record: Any, file: CocoFile, where: str) -> tuple[int, Region | None]:
    """Return the image of a record, and its region, ``None`` where the mask is empty."""
    image_id = field_of(record, "image_id", int, where)
    annotation_id = field_of(record, "ann_id", int, where)
    annotation = file.annotations.get(annotation_id)
    if annotation is None or annotation.image.id != image_id:
        raise InputDataError(
            f"{where}: 'ann_id' {annotation_id} is no annotation of the image {image_id} in "
            f"{file.path}"
        )
    said = []
    for number, sentence in enumerate(field_of(record, "sentences", list, where)):
        text = " ".join(field_of(sentence, "sent", str, f"{where}: sentence {number}").split())
        if text:
            said.append(text)
    if not said:
        raise InputDataError(f"{where}: has no expression")
    if annotation.mask is None:
        return image_id, None
    return image_id, Region(
        names=tuple(dict.fromkeys(said)),
        naming="phrase",
        mask=annotation.mask,
        category=annotation.category,
    )


def _pictures(
    file: CocoFile, regions: dict[int, list[Region]], photos: Path, dataset: str
) -> list[AnnotatedPicture]:
    frequent = most_common(Counter(a.category for a in file.annotations.values()))
    whole = file.by_image()
    pictures = []
    for image_id, found in regions.items():
        _, counts, _ = class_regions(whole[image_id])
        absent = absent_names(frequent, {a.category for a in whole[image_id]}, str(image_id))
        # What refCLEF calls a category is a number of another list, so only COCO's are asked about.
        facts: tuple[Fact, ...] = ()
        if dataset != "refclef":
            facts = presence_facts(counts, absent) + tuple(
                Fact(kind="what_is", words={"x": region.names[0]}, answer=region.category)
                for region in found
            )
        pictures.append(
            AnnotatedPicture(
                id=str(image_id),
                picture=coco_picture(file.images[image_id], photos, dataset),
                regions=tuple(found),
                facts=facts,
            )
        )
    return pictures
