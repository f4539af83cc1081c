"""COCO's ``instances`` files, on which refCOCO, PACO and the part data sets are built as well.

Lin et al. 2014 (arXiv 1405.0312). ``images`` have id, file name and size, ``categories`` id and
name, and each of ``annotations`` has the mask of one thing, or of a crowd that nobody took apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbind_cli.data.masks import MaskSource, UnionMask, read_segmentation
from llmbind_cli.data.pictures import PictureFile, picture_key
from llmbind_cli.data.segmentation.annotations import (
    Region,
    field_of,
    read_json,
)
from llmbind_cli.errors import InputDataError

_NUMBER = (int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoImage:
    """An entry of ``images``.

    Attributes:
        id: Its number.
        file_name: Path below the folder of the photos.
        height: H in pixels.
        width: W in pixels.
    """

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoAnnotation:
    """An entry of ``annotations``.

    Attributes:
        id: Its number.
        image: What it is in.
        category: Name of its class.
        box: x and y of the upper left corner, width and height, in pixels.
        is_crowd: Whether it is several things that nobody took apart.
        mask: Its pixels; ``None`` where the file has none.
    """

    id: int
    image: CocoImage
    category: str
    box: tuple[float, float, float, float]
    is_crowd: bool
    mask: MaskSource | None


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """A whole ``instances`` file, checked.

    Attributes:
        path: The file.
        images: Number → image.
        annotations: Number → annotation.
        categories: Number → name.
    """

    path: Path
    images: dict[int, CocoImage]
    annotations: dict[int, CocoAnnotation]
    categories: dict[int, str]

    def by_image(self) -> dict[int, list[CocoAnnotation]]:
        """Return the annotations of each image that has some, in file order."""
        found: dict[int, list[CocoAnnotation]] = defaultdict(list)
        for annotation in self.annotations.values():
            found[annotation.image.id].append(annotation)
        return dict(found)


def read_coco_file(path: Path) -> CocoFile:
    """Read an ``instances`` file.

    Raises:
        InputDataError: It cannot be read, or a record is broken, repeats a number or names an image
            or a category that is not there; names file and record.
    """
    content = read_json(path)
    categories: dict[int, str] = {}
    for number, record in enumerate(field_of(content, "categories", list, str(path))):
        where = f"{path}: categories[{number}]"
        name = field_of(record, "name", str, where).strip()
        _add(categories, field_of(record, "id", int, where), name, where)
    images: dict[int, CocoImage] = {}
    for number, record in enumerate(field_of(content, "images", list, str(path))):
        where = f"{path}: images[{number}]"
        image = _image(record, where)
        _add(images, image.id, image, where)
    annotations: dict[int, CocoAnnotation] = {}
    for number, record in enumerate(field_of(content, "annotations", list, str(path))):
        where = f"{path}: annotations[{number}]"
        annotation = _annotation(record, images, categories, where)
        _add(annotations, annotation.id, annotation, where)
    return CocoFile(path=path, images=images, annotations=annotations, categories=categories)


def _add(table: dict[int, Any], number: int, value: Any, where: str) -> None:
    if number in table:
        raise InputDataError(f"{where}: the id {number} stands twice")
    table[number] = value


def _image(record: Any, where: str) -> CocoImage:
    name = field_of(record, "file_name", str, where)
    if not name or name.startswith("/") or ".." in Path(name).parts:
        raise InputDataError(f"{where}: 'file_name' must stay below its folder, got {name!r:.60}")
    height, width = (field_of(record, side, int, where) for side in ("height", "width"))
    if min(height, width) < 1:
        raise InputDataError(f"{where}: height and width must be ≥ 1, got {height} and {width}")
    return CocoImage(
        id=field_of(record, "id", int, where), file_name=name, height=height, width=width
    )


def _annotation(
    record: Any, images: dict[int, CocoImage], categories: dict[int, str], where: str
) -> CocoAnnotation:
    image_id = field_of(record, "image_id", int, where)
    category_id = field_of(record, "category_id", int, where)
    if image_id not in images:
        raise InputDataError(f"{where}: 'image_id' {image_id} is no image of the file")
    if category_id not in categories:
        raise InputDataError(f"{where}: 'category_id' {category_id} is no category of the file")
    image = images[image_id]
    box = field_of(record, "bbox", list, where) if "bbox" in record else [0, 0, 0, 0]
    if len(box) != 4 or not all(isinstance(side, _NUMBER) for side in box):
        raise InputDataError(f"{where}: 'bbox' must be [x, y, width, height], got {box!r:.60}")
    return CocoAnnotation(
        id=field_of(record, "id", int, where),
        image=image,
        category=categories[category_id],
        box=(box[0], box[1], box[2], box[3]),
        is_crowd=bool(record.get("iscrowd", 0)),
        mask=read_segmentation(
            record.get("segmentation", []),
            image.height,
            image.width,
            f"{where}: annotation {record.get('id')}",
        ),
    )


def united(masks: list[MaskSource]) -> MaskSource:
    """Return one mask of several, at least one."""
    return masks[0] if len(masks) == 1 else UnionMask(tuple(masks))


def class_regions(annotations: list[CocoAnnotation]) -> tuple[list[Region], Counter[str], int]:
    """Return one region for each class of an image: all things of it, crowds included.

    Returns:
        The regions; class → number of things, 0 where a crowd hides it; and how many annotations
        have no pixel.
    """
    masks: dict[str, list[MaskSource]] = defaultdict(list)
    counts: Counter[str] = Counter()
    crowded = {annotation.category for annotation in annotations if annotation.is_crowd}
    empty = 0
    for annotation in annotations:
        if annotation.mask is None:
            empty += 1
            continue
        masks[annotation.category].append(annotation.mask)
        counts[annotation.category] += annotation.category not in crowded
    regions = [
        Region(names=(name,), naming="class", mask=united(found), category=name)
        for name, found in masks.items()
    ]
    return regions, counts, empty


def coco_picture(image: CocoImage, photos: Path, dataset: str) -> PictureFile:
    """Return an image's file."""
    return PictureFile(photos / image.file_name, picture_key(dataset, image.file_name))
