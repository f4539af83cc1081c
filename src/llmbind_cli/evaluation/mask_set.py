"""Masks to score: a folder of pictures, a manifest of llmbind, or COCO's run-length encoded ones.

Run-length encoded masks stand in a ``.jsonl`` file, one object a line, or in a ``.json`` file: a
list of such objects, or COCO's ``{"images", "annotations", "categories"}``. An object has an ``id``
(else its ``image_id`` counts), a ``segmentation`` with ``size`` and ``counts``, compressed or not,
and perhaps a ``category``. Of a manifest, the masks of one id are joined, and a line of the status
``empty`` is a prediction without a mask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmbind_cli.data.pictures import MAX_PIXELS
from llmbind_cli.data.polygons import fill_coco
from llmbind_cli.data.rle import decode_runs, runs_from_text
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.faults import FaultList, listed
from llmbind_cli.evaluation.mask_files import read_mask
from llmbind_cli.evaluation.media_set import (
    MediaSet,
    count_items,
    digest_of,
    files_of_line,
    json_objects,
    last_lines,
    manifests_of,
    normalised,
    read_media_set,
)
from llmbind_cli.weights.hashes import sha256_file

Array = np.ndarray[Any, Any]
_Object = tuple[str, dict[str, Any], Mapping[str, Any]]
"""Place, fields, and what COCO's lists of images and categories tell."""

_EMPTY = "empty"
_SEGMENTATION = "segmentation"
_LARGEST_JSON = 2 * 1024**3
_FURTHEST_PX = 1_000_000
"""How far a polygon's corner may lie from the picture's; its sides are walked step by step."""


@dataclass(frozen=True, kw_only=True)
class MaskItem:
    """One mask.

    Attributes:
        place: Where it stands, for messages: a file, or a file and line.
        load: Gives its numbers, [H, W]; raises `InputDataError`. ``None``: no mask was made.
        category: What it shows, or ``None``.
    """

    place: Path
    load: Callable[[], Array] | None
    category: str | None = None


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """Masks of one side.

    Attributes:
        path: As the user named it.
        kind: How they are kept.
        items: Id → mask, sorted by id.
        sha256: Of a file of run-length encoded masks its own, else as that of a `MediaSet`.
    """

    path: str
    kind: Literal["folder", "manifest", "rle"]
    items: dict[str, MaskItem]
    sha256: str

    @property
    def empty(self) -> list[str]:
        """Ids of the predictions for which no mask was made."""
        return [item for item, mask in self.items.items() if mask.load is None]


def read_mask_set(path: Path) -> MaskSet:
    """Find masks; their pixels are read later.

    Args:
        path: A folder, a ``.jsonl`` or a ``.json`` file.

    Raises:
        InputDataError: It is missing or empty, ids are not unique, or an entry is no mask.
    """
    if (objects := _encoded_objects(path)) is not None:
        return _of_objects(path, objects)
    if manifests := manifests_of(path):
        return _of_manifests(path, manifests)
    return _of_files(read_media_set(path))


def count_masks(path: Path) -> int | None:
    """Count predictions as :func:`read_mask_set` does, without reading pictures.

    Raises:
        InputDataError: A file of run-length encoded masks is wrong.
    """
    if (objects := _encoded_objects(path)) is not None:
        return len(_of_objects(path, objects).items)
    return count_items(path)


def mask_of(segmentation: Any, size: tuple[int, int] | None = None) -> Array:
    """Decode COCO's ``segmentation``.

    Args:
        segmentation: ``{"size": [H, W], "counts": text or numbers}``, or polygons.
        size: H and W, for polygons.

    Returns:
        bool, [H, W].

    Raises:
        ValueError: It is none, or does not fit its size.
    """
    if isinstance(segmentation, list):
        if size is None:
            raise ValueError("polygons need the size of their image, from COCO's list of images")
        covered = np.zeros(_checked_size(list(size)), dtype=np.bool_)
        for polygon in segmentation:  # several polygons are one mask: their union
            covered |= fill_coco(_corners(polygon), *size)
        return covered
    if not isinstance(segmentation, dict):
        raise ValueError("a segmentation is an object with size and counts")
    height, width = _checked_size(segmentation.get("size"))
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = runs_from_text(counts)
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise ValueError("counts must be a text or a list of whole numbers")
    return decode_runs(counts, height, width)


def _corners(polygon: Any) -> Array:
    try:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("a polygon is a list of numbers, x and y of each corner") from error
    if not (np.abs(points) <= _FURTHEST_PX).all():  # what is no number is not below it either
        raise ValueError(f"a polygon's corners must be within {_FURTHEST_PX} px of the picture's")
    return points


def _checked_size(size: Any) -> tuple[int, int]:
    if not isinstance(size, list) or len(size) != 2 or not all(type(s) is int for s in size):
        raise ValueError(f"size must be [height, width], got {size!r}")
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{size[1]} × {size[0]} px is nothing that can be read")
    return size[0], size[1]


def _of_files(media: MediaSet) -> MaskSet:
    items = {item: _file_item(path) for item, path in media.files.items()}
    return MaskSet(path=media.path, kind=media.kind, items=items, sha256=media.sha256)


def _of_manifests(path: Path, manifests: list[Path]) -> MaskSet:
    masks: dict[str, list[MaskItem]] = {}
    digests: dict[str, str] = {}
    for manifest in manifests:
        faults = FaultList(place=str(manifest))
        for place, fields in last_lines(manifest):
            try:
                category = _category_of_line(fields)
            except InputDataError as error:
                faults.add(f"{place}: {fields['id']}: {error}")
                continue
            if fields.get("status") == _EMPTY:
                item = normalised(fields["id"])
                masks.setdefault(item, [])
                masks[item].append(MaskItem(place=Path(place), load=None, category=category))
                digests.setdefault(item, "")
                continue
            try:
                for item, file in files_of_line(fields, manifest.parent, place):
                    masks.setdefault(item, []).append(_file_item(file, category))
                    digests[item] = digests.get(item, "") + sha256_file(file)
            except InputDataError as error:
                faults.add(error)
        faults.raise_if_any()
    items = _unique(path, [(item, _union(same)) for item, same in masks.items()])
    return MaskSet(path=str(path), kind="manifest", items=items, sha256=digest_of(digests))


def _union(masks: list[MaskItem]) -> MaskItem:
    """Join the masks that one answer made, as an answer in several calls means all of them."""
    loads = [mask.load for mask in masks if mask.load is not None]
    if len(loads) < 2:
        return masks[0] if not loads else next(m for m in masks if m.load is not None)

    def load() -> Array:
        covered = [one() != 0 for one in loads]
        if len({mask.shape for mask in covered}) > 1:
            raise InputDataError(f"{masks[0].place}: the masks of one answer differ in size")
        joined: Array = np.logical_or.reduce(covered)
        return joined

    return MaskItem(place=masks[0].place, load=load, category=masks[0].category)


def _file_item(path: Path, category: str | None = None) -> MaskItem:
    def load() -> Array:
        if path.suffix != ".json":
            return read_mask(path)
        try:
            return mask_of(_read_json(path))
        except ValueError as error:
            raise InputDataError(f"{path}: {error}") from error

    return MaskItem(place=path, load=load, category=category)


def _encoded_objects(path: Path) -> Iterable[_Object] | None:
    """Give the objects of a file of run-length encoded masks; ``None`` for anything else."""
    if path.is_file() and path.suffix == ".json":
        return _json_objects(path)
    if path.is_file() and path.suffix == ".jsonl":
        lines = list(json_objects(path))
        if any(_SEGMENTATION in fields for _, fields in lines):
            return [(place, fields, {}) for place, fields in lines]
    return None


def _of_objects(path: Path, objects: Iterable[_Object]) -> MaskSet:
    faults = FaultList(place=str(path))
    entries = []
    for place, fields, context in objects:
        item = fields.get("id", fields.get("image_id"))
        if not isinstance(item, str | int):
            faults.add(f"{place}: has neither id nor image_id")
            continue
        if _SEGMENTATION not in fields and fields.get("status") != _EMPTY:
            faults.add(f"{place}: {item} has no {_SEGMENTATION}")
            continue
        try:
            entries.append((normalised(str(item)), _object_item(place, fields, context)))
        except InputDataError as error:
            faults.add(f"{place}: {item}: {error}")
    faults.raise_if_any()
    return MaskSet(
        path=str(path), kind="rle", items=_unique(path, entries), sha256=sha256_file(path)
    )


def _object_item(place: str, fields: dict[str, Any], context: Mapping[str, Any]) -> MaskItem:
    segmentation = fields.get(_SEGMENTATION)
    size = context.get("sizes", {}).get(_key(fields, "image_id"))
    where = Path(place)

    def load() -> Array:
        try:
            return mask_of(segmentation, size)
        except ValueError as error:
            raise InputDataError(f"{place}: {error}") from error

    return MaskItem(
        place=where,
        load=load if segmentation is not None else None,
        category=_category(fields, context.get("categories", {})),
    )


def _category(fields: Mapping[str, Any], names: Mapping[Any, str]) -> str | None:
    category = fields.get("category")
    if category is None and "category_id" in fields:
        number = _key(fields, "category_id")
        category = names.get(number, str(number))
    return None if category is None else str(category)


def _category_of_line(fields: Mapping[str, Any]) -> str | None:
    """Give the category in a manifest's line, or in what its request carried along."""
    extra = fields.get("extra") or {}
    if not isinstance(extra, dict):
        raise InputDataError(f"extra must be an object, got {extra!r}")
    return _category(fields, {}) or _category(extra, {})


def _key(fields: Mapping[str, Any], name: str) -> Any:
    """Give what is looked up by, or ``None`` where it is missing."""
    value = fields.get(name)
    if isinstance(value, list | dict):
        raise InputDataError(f"{name} must be a number or a text, got {value!r}")
    return value


def _unique(path: Path, entries: list[tuple[str, MaskItem]]) -> dict[str, MaskItem]:
    if not entries:
        raise InputDataError(f"{path}: holds no mask to score")
    items = dict(sorted(entries, key=lambda entry: entry[0]))
    if len(items) < len(entries):
        ids = [item for item, _ in entries]
        twice = sorted({item for item in ids if ids.count(item) > 1})
        raise InputDataError(f"{path}: several masks share an id: {listed(twice)}")
    return items


def _json_objects(path: Path) -> Iterator[_Object]:
    content = _read_json(path)
    context: dict[str, Any] = {}
    entries = content
    if isinstance(content, dict):
        entries = content.get("annotations")
        names = _by_id(path, content, "categories", "name")
        context = {
            "sizes": _by_id(path, content, "images", "height", "width"),
            "categories": {category: str(name) for category, (name,) in names.items()},
        }
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputDataError(f"{path}: must hold a list of masks, or COCO's annotations")
    for number, entry in enumerate(entries):
        yield f"{path}: entry {number}", entry, context


def _by_id(path: Path, content: Mapping[str, Any], name: str, *keys: str) -> dict[Any, Any]:
    """Give what some keys of COCO's images or categories hold, by their ids."""
    entries = content.get(name) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputDataError(f"{path}: {name} must be a list of objects")
    try:
        return {
            _key(entry, "id"): tuple(entry[key] for key in keys)
            for entry in entries
            if {"id", *keys} <= entry.keys()
        }
    except InputDataError as error:
        raise InputDataError(f"{path}: {name}: {error}") from error


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise InputDataError(f"{path}: is larger than {_LARGEST_JSON} bytes; use JSON lines")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputDataError(f"{path}: is no JSON: {error}") from error
