"""ADE20K and COCO-Stuff: pictures with one class number for every pixel.

Zhou et al. 2017 (ADE20K, the 150 classes of its challenge) and Caesar et al. 2018 (arXiv
1612.03716, the ``stuffthingmaps``). The folders are those of dvlab-research/LISA 3cb2d43.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmbind_cli.data.masks import LabelMask
from llmbind_cli.data.pictures import PictureFile, picture_key, read_labels
from llmbind_cli.data.sample import IGNORED
from llmbind_cli.data.segmentation.absent import absent_names
from llmbind_cli.data.segmentation.annotations import (
    AnnotatedPicture,
    Annotations,
    Region,
    finish_annotations,
    most_common,
    presence_facts,
)
from llmbind_cli.errors import InputDataError

LabelDataset = Literal["ade20k", "cocostuff"]

_NUMBERED = re.compile(r"(\d+)\s*:\s*(.+)")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a data set keeps its files, and what its numbers mean.

    Attributes:
        labels: Folder of the label pictures, with ``{split}``.
        photos: Folder of the photos, with ``{split}``.
        classes: Files that may list the classes, the first that is there counts.
        first: Number of the first class.
        ignored: Numbers of pixels that are left out.
    """

    labels: str
    photos: str
    classes: tuple[str, ...]
    first: int
    ignored: frozenset[int]


_LAYOUTS = {
    "ade20k": _Layout(
        labels="ade20k/annotations/{split}",
        photos="ade20k/images/{split}",
        classes=("ade20k/objectInfo150.txt", "ade20k/ade20k_classes.json"),
        first=1,
        ignored=frozenset({0, IGNORED}),
    ),
    "cocostuff": _Layout(
        labels="cocostuff/{split}",
        photos="coco/{split}",
        classes=("cocostuff/labels.txt", "cocostuff/cocostuff_classes.txt"),
        first=0,
        ignored=frozenset({IGNORED}),
    ),
}


def read_label_maps(
    name: str,
    *,
    root: Path,
    dataset: LabelDataset,
    split: str,
    classes: Path | None = None,
    skip_missing: bool = False,
) -> Annotations:
    """Read one split of a data set of label pictures.

    Of ADE20K, 0 is left out and 1 is the first class. Of COCO-Stuff, classes whose name has a
    hyphen ("wall-brick") are left out, as LISA does, and so is 255.

    Args:
        name: Data source, for messages.
        root: The common folder, with ``ade20k/`` or with ``cocostuff/`` and ``coco/``.
        dataset: Which.
        split: Folder of the part: ``training`` or ``validation``, ``train2017`` or ``val2017``.
        classes: List of the class names, where it is not beside the data: a JSON list, lines
            ``number: name`` (``0`` is "unlabeled"), or ADE20K's ``objectInfo150.txt``.
        skip_missing: Leave out photos that are missing, and count them.

    Returns:
        For each photo, one region for each class in it.

    Raises:
        InputDataError: A folder or file is missing or broken, a number has no class, or photos are
            missing.
    """
    layout = _LAYOUTS[dataset]
    folder = root / layout.labels.format(split=split)
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise InputDataError(f"{name}: {folder} holds no label picture")
    listed = _class_file(name, root, layout, classes)
    names = read_class_names(listed)
    left_out = {n for n, said in names.items() if dataset == "cocostuff" and "-" in said[0]}
    own_names = _own_names(names)
    photos = root / layout.photos.format(split=split)
    present: dict[Path, list[int]] = {}
    for path in paths:
        numbers = set(np.unique(read_labels(path)).tolist()) - layout.ignored
        # Lists number the classes from 1; 0 is what nobody labelled.
        classed = {number - layout.first + 1 for number in numbers}
        unknown = sorted(classed - names.keys())
        if unknown:
            raise InputDataError(
                f"{path}: has the number {unknown[0] + layout.first - 1}, which is no class of "
                f"{listed}"
            )
        present[path] = sorted(classed - left_out)
    frequent = most_common(Counter(names[n][0] for found in present.values() for n in found))
    values = layout.ignored | {number + layout.first - 1 for number in left_out}
    pictures = []
    for path, found in present.items():
        # Photos of ADE20K have a folder of their own; those of COCO are shared by their number.
        photo = photos / f"{path.stem}.jpg"
        shown = [names[number][0] for number in found]
        regions = tuple(
            Region(
                names=own_names[number],
                naming="class",
                mask=LabelMask(path, frozenset({number + layout.first - 1})),
                ignored=LabelMask(path, frozenset(values)),
                category=names[number][0],
            )
            for number in found
        )
        if regions:
            # A class is not absent under a word that one in the picture may be called by.
            said = [name for number in found for name in names[number]]
            pictures.append(
                AnnotatedPicture(
                    id=f"{split}/{path.stem}",
                    picture=PictureFile(photo, picture_key(dataset, f"{split}/{photo.name}")),
                    regions=regions,
                    facts=presence_facts(
                        dict.fromkeys(shown, 0), absent_names(frequent, said, path.stem)
                    ),
                )
            )
    return finish_annotations(name, pictures, skip_missing=skip_missing, files=[listed])


def _own_names(names: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    """Return the names of each class without the synonyms that another class has too.

    ADE20K calls both earth and land "ground", and a toilet "stool", which is a class of its own. A
    class keeps its first name.
    """
    spelled = {number: {name.lower() for name in said} for number, said in names.items()}
    uses = Counter(name for some in spelled.values() for name in some)
    return {
        number: (said[0], *(name for name in said[1:] if uses[name.lower()] == 1))
        for number, said in names.items()
    }


def _class_file(name: str, root: Path, layout: _Layout, given: Path | None) -> Path:
    candidates = [given] if given is not None else [root / entry for entry in layout.classes]
    for path in candidates:
        if path.is_file():
            return path
    raise InputDataError(
        f"{name}: the list of classes is missing; looked for {', '.join(map(str, candidates))}"
    )


def read_class_names(path: Path) -> dict[int, tuple[str, ...]]:
    """Read a list of classes.

    Args:
        path: A JSON list; lines ``number: name``; or tab-separated lines that end in the names,
            commas between synonyms, as ADE20K's ``objectInfo150.txt`` has them.

    Returns:
        Number, from 1 → names.

    Raises:
        InputDataError: It cannot be read, or a line is of another form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputDataError(f"{path}: cannot be read: {error}") from None
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputDataError(f"{path}: line {error.lineno}: no JSON: {error.msg}") from None
        if not all(isinstance(entry, str) and entry.strip() for entry in listed):
            raise InputDataError(f"{path}: must be a list of names")
        return {number: (entry.strip(),) for number, entry in enumerate(listed, start=1)}
    names: dict[int, tuple[str, ...]] = {}
    for line_number, line in enumerate(text.splitlines(), start=1):
        columns = line.split("\t")
        match = _NUMBERED.fullmatch(line.strip())
        if match:
            number, said = int(match[1]), match[2]
        elif len(columns) > 1 and columns[0].strip().isdecimal():
            number, said = int(columns[0]), columns[-1]
        elif line_number == 1 or not line.strip():
            continue  # a header
        else:
            raise InputDataError(f"{path}: line {line_number}: expected a number and a name")
        synonyms = tuple(entry.strip() for entry in said.split(",") if entry.strip())
        if number > 0 and synonyms:
            names[number] = synonyms
    if not names:
        raise InputDataError(f"{path}: lists no class")
    return names
