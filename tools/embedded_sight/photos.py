"""Writes COCO128 as files that ``llmbind eval`` scores, and what baselines mark there.

Into ``OUT/SPLIT`` for the splits train and held_out: ``requests.jsonl`` with each expression of
each photo, and ``masks.jsonl`` with its mask and class. Beside them, for held_out, the masks of
three baselines, none of which reads the words: ``foreground.jsonl`` marks the whole photo,
``centre.jsonl`` where masks of the training photos lie on the average, ``deeplab.jsonl`` what
DeepLabv3 takes for the class that is asked for; its classes alone stand in
``deeplab-requests.jsonl`` and ``deeplab-masks.jsonl``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from llmbind_cli.data.rle import coco_rle
from llmbind_cli.data.sample import Sample, SegmentTarget, Turn
from llmbind_cli.data.segmentation import wordings
from llmbind_cli.data.segmentation.annotations import AnnotatedPicture, Region
from llmbind_cli.data.segmentation.coco128 import read_coco128

SPLITS = ("train", "held_out")
_GRID = 64
_LEVELS = np.linspace(0.02, 0.6, 30)
_DEEPLAB_SIDE = 257
_AS_DEEPLAB_SAYS = {
    "airplane": "aeroplane", "motorcycle": "motorbike", "couch": "sofa",
    "potted plant": "potted plant", "dining table": "dining table",
}  # fmt: skip

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Asked(NamedTuple):
    """One expression."""

    id: str
    prompt: str
    picture: AnnotatedPicture
    region: Region


def dialogues(root: Path, segment_prompt: str, *, wordings_of_each: int) -> Iterator[Sample]:
    """Word each expression of the photos to train on, and replies as the bundle's own are.

    Args:
        root: COCO128.
        segment_prompt: How ``llmbind segment`` asks.
        wordings_of_each: Replies to each expression.
    """
    rng = random.Random("photo fitting")
    for one in list(asked_of(root, "train")) * wordings_of_each:
        replied = wordings.reply(rng, "phrase", one.prompt, tied=True)
        region = one.region
        yield Sample(
            id=one.id,
            turns=[
                Turn("user", segment_prompt.format(one.prompt)),
                Turn("assistant", replied),
            ],
            image=str(one.picture.picture.path),
            pictures=(one.picture.picture,),
            segments=(SegmentTarget(mask=region.mask, phrase=one.prompt, ignored=region.ignored),),
            source_task="refer",
        )


def write_photos(out: Path, root: Path, deeplab: Path | None) -> None:
    """Write both splits and the baselines.

    Args:
        out: Folder.
        root: COCO128, with ``annotations`` and ``train2017``.
        deeplab: DeepLabv3 as a TensorFlow Lite file; ``deeplab_labels.txt`` lies beside it.
    """
    asked = {split: list(asked_of(root, split)) for split in SPLITS}
    for split in SPLITS:
        _write(out / split / "requests.jsonl", (_request(one) for one in asked[split]))
        _write(
            out / split / "masks.jsonl",
            (_line(one, one.region.mask.decode()) for one in asked[split]),
        )
    prior = _centre_prior(asked["train"])
    held_out, folder = asked["held_out"], out / "held_out"
    _write(
        folder / "foreground.jsonl",
        (_line(one, np.ones_like(one.region.mask.decode(), bool)) for one in held_out),
    )
    _write(
        folder / "centre.jsonl",
        (_line(one, _scaled(prior, one.region.mask.decode().shape)) for one in held_out),
    )
    if deeplab is not None:
        labels = (deeplab.parent / "deeplab_labels.txt").read_text().splitlines()
        known = [one for one in held_out if _class_of(one, labels) is not None]
        marked = _deeplab_masks(known, deeplab, labels)
        _write(folder / "deeplab-requests.jsonl", map(_request, known))
        _write(
            folder / "deeplab-masks.jsonl", (_line(one, one.region.mask.decode()) for one in known)
        )
        _write(
            folder / "deeplab.jsonl",
            (_line(one, mask) for one, mask in zip(known, marked, strict=True)),
        )


def asked_of(root: Path, split: Any) -> Iterator[Asked]:
    """Yield each expression of each photo of a split, as it is asked in the evaluation."""
    for picture in read_coco128("coco128", root=root, split=split).pictures:
        number = 0
        for region in picture.regions:
            for name in region.names:
                prompt = f"every {name}" if region.naming == "class" else name
                yield Asked(f"{picture.id}-{number}", prompt, picture, region)
                number += 1


def _request(one: Asked) -> dict[str, Any]:
    path = one.picture.picture.path.resolve()
    return {"id": one.id, "prompt": one.prompt, "image": str(path), "reply": "<seg>."}


def _line(one: Asked, mask: Mask) -> dict[str, Any]:
    return {"id": one.id, "segmentation": coco_rle(mask), "category": one.region.category}


def _centre_prior(asked: list[Asked]) -> Mask:
    """Return the best cut through the mean of all masks, [64, 64]: that of the highest cIoU."""
    masks = np.stack([_shrunk(one.region.mask.decode()) for one in asked])
    mean = masks.mean(0)

    def ciou(cut: Mask) -> float:
        overlap, union = np.minimum(masks, cut).sum(), np.maximum(masks, cut).sum()
        return float(overlap / union)

    return max((mean >= level for level in _LEVELS), key=ciou)


def _shrunk(mask: Mask) -> np.ndarray[Any, np.dtype[np.float32]]:
    picture = Image.fromarray(mask.astype(np.float32))
    return np.asarray(picture.resize((_GRID, _GRID), Image.Resampling.BOX))


def _scaled(mask: Mask, shape: tuple[int, ...]) -> Mask:
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR)) >= 128


def _class_of(one: Asked, labels: list[str]) -> int | None:
    name = _AS_DEEPLAB_SAYS.get(one.region.category, one.region.category)
    return labels.index(name) if name in labels else None


def _deeplab_masks(asked: list[Asked], network: Path, labels: list[str]) -> Iterator[Mask]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(network))
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    seen: dict[str, Any] = {}
    for one in asked:
        if one.picture.id not in seen:
            photo = one.picture.picture.load()
            small = photo.resize((_DEEPLAB_SIDE, _DEEPLAB_SIDE), Image.Resampling.BILINEAR)
            pixels = np.asarray(small, np.float32)[None] / 127.5 - 1
            interpreter.set_tensor(into["index"], pixels)
            interpreter.invoke()
            seen[one.picture.id] = interpreter.get_tensor(out["index"])[0].argmax(-1)
        yield _scaled(
            seen[one.picture.id] == _class_of(one, labels), one.region.mask.decode().shape
        )


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
