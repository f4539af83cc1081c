"""ReasonSeg: questions whose object has to be worked out, with its outline.

LISA (arXiv 2308.00692). A folder holds a JSON file beside each picture: ``text`` with one or more
wordings, ``is_sentence``, and ``shapes`` of a label and points. "ignore" marks pixels
that are not scored, "flag" is passed over, every other label is the target.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmbind_cli.data.masks import PaintedMask, finite_points
from llmbind_cli.data.pictures import PictureFile, picture_key
from llmbind_cli.data.sample import IGNORED
from llmbind_cli.data.segmentation.annotations import (
    AnnotatedPicture,
    Annotations,
    Region,
    field_of,
    finish_annotations,
    read_json,
)
from llmbind_cli.errors import InputDataError

_ENCODINGS = ("utf-8-sig", "cp1252")
_PHOTO_ENDINGS = (".jpg", ".jpeg", ".png")


def read_reason_seg(
    name: str,
    *,
    root: Path,
    splits: tuple[str, ...] = ("train",),
    explanations: bool = True,
    skip_missing: bool = False,
) -> Annotations:
    """Read ReasonSeg.

    Args:
        name: Data source, for messages.
        root: Folder with the folders of the splits, and ``explanatory/train.json``.
        splits: Names of the folders.
        explanations: Read the explanations where they are there.
        skip_missing: Leave out pictures that are missing, and count them.

    Returns:
        For each picture, one region, whose names are its wordings.

    Raises:
        InputDataError: A folder or file is missing or broken, or pictures are missing.
    """
    said = _explanations(root / "explanatory" / "train.json") if explanations else {}
    pictures, files = [], []
    for split in splits:
        folder = root / split
        if not folder.is_dir():
            raise InputDataError(f"{name}: {folder} is missing")
        found = sorted(folder.glob("*.json"))
        if not found:
            raise InputDataError(f"{name}: {folder} holds no JSON file")
        files += found
        pictures += [_picture(path, split, said) for path in found]
        lonely = _without_annotation(folder)
        if lonely:
            raise InputDataError(
                f"{name}: {len(lonely)} pictures have no JSON file beside them, first {lonely[0]}"
            )
    return finish_annotations(name, pictures, skip_missing=skip_missing, files=files)


def _without_annotation(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _PHOTO_ENDINGS and not path.with_suffix(".json").is_file()
    ]


def _picture(path: Path, split: str, explanations: dict[str, str]) -> AnnotatedPicture:
    record = read_json(path, encodings=_ENCODINGS)
    wordings = field_of(record, "text", list, str(path))
    if not wordings or not all(isinstance(text, str) and text.strip() for text in wordings):
        raise InputDataError(f"{path}: 'text' must hold at least one wording, got {wordings!r:.60}")
    is_sentence = field_of(record, "is_sentence", bool, str(path))
    photo = next(
        (path.with_suffix(end) for end in _PHOTO_ENDINGS if path.with_suffix(end).is_file()),
        path.with_suffix(".jpg"),
    )
    layers = tuple(_layers(field_of(record, "shapes", list, str(path)), path))
    has_ignored = any(label == IGNORED for _, label in layers)
    region = Region(
        names=tuple(" ".join(text.split()) for text in wordings),
        naming="sentence" if is_sentence else "phrase",
        mask=PaintedMask(layers, photo, 1),
        ignored=PaintedMask(layers, photo, IGNORED) if has_ignored else None,
        explanation=explanations.get(photo.name, ""),
    )
    key = picture_key("reason_seg", f"{split}/{photo.name}")
    return AnnotatedPicture(
        id=f"{split}/{path.stem}", picture=PictureFile(photo, key), regions=(region,)
    )


def _layers(shapes: list[Any], path: Path) -> list[tuple[Any, int]]:
    layers = []
    for number, shape in enumerate(shapes):
        where = f"{path}: shapes[{number}]"
        label = field_of(shape, "label", str, where).lower()
        if label == "flag":
            continue
        corners = field_of(shape, "points", list, where)
        if not corners or not all(
            isinstance(corner, list) and len(corner) == 2 for corner in corners
        ):
            raise InputDataError(f"{where}: 'points' must be [[x, y], …], got {corners!r:.60}")
        layers.append((finite_points(corners, where), IGNORED if "ignore" in label else 1))
    return layers


def _explanations(path: Path) -> dict[str, str]:
    """Return file name of a picture → explanation; none where the file is not there."""
    if not path.is_file():
        return {}
    records = read_json(path, encodings=_ENCODINGS)
    if not isinstance(records, list):
        raise InputDataError(f"{path}: must hold a list")
    said = {}
    for number, record in enumerate(records):
        where = f"{path}: record {number}"
        name = field_of(record, "image", str, where)
        said[name] = " ".join(field_of(record, "outputs", str, where).split())
    return said
