"""Small data sets of pictures with masks, in the layouts of the real ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 30, 40


def save_photo(path: Path, *, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """Save noise as a picture; ``size`` is height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_labels(path: Path, labels: np.ndarray) -> Path:
    """Save numbers as a grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)
    return path


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    """The corners of a rectangle as COCO writes them."""
    return [left, top, right, top, right, bottom, left, bottom]


def save_json(path: Path, content: Any) -> Path:
    """Save JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def annotation(
    number: int, image: int, category: int, segmentation: Any, **fields: Any
) -> dict[str, Any]:
    """An entry of ``annotations``."""
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "bbox": [1, 2, 3, 4],
        "area": 9.0,
        "iscrowd": 0,
    } | fields


def instances(
    images: dict[int, str], categories: dict[int, str], annotations: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of an ``instances`` file."""
    return {
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for number, name in images.items()
        ],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "annotations": annotations,
    }


def refer_record(number: int, image: int, ann: int, split: str, *said: str) -> dict[str, Any]:
    """An entry of a ``refs`` file, with the fields that the real ones have."""
    return {
        "ref_id": number,
        "ann_id": ann,
        "image_id": image,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "sent_ids": list(range(len(said))),
        "sentences": [
            {"tokens": text.split(), "raw": text, "sent_id": i, "sent": text}
            for i, text in enumerate(said)
        ],
    }


def save_refcoco(root: Path, dataset: str = "refcoco", *, photos: bool = True) -> Path:
    """Save two photos and four expressions as refCOCO keeps them; return the common folder."""
    names = {number: f"COCO_train2014_{number:012d}.jpg" for number in (9, 25)}
    if photos:
        for number, name in names.items():
            save_photo(root / "images/mscoco/images/train2014" / name, seed=number)
    content = instances(
        names,
        {1: "dog", 2: "cat"},
        [
            annotation(100, 9, 1, [rectangle(1, 1, 11, 11), rectangle(6, 6, 16, 16)]),
            annotation(101, 9, 2, [rectangle(20, 5, 30, 15)]),
            annotation(102, 25, 1, [rectangle(0, 0, 8, 8)]),
        ],
    )
    save_json(root / dataset / "instances.json", content)
    split_by = "umd" if dataset == "refcocog" else "unc"
    refs = [
        refer_record(1, 9, 100, "train", "left dog", "the dog", "left dog"),
        refer_record(2, 9, 101, "train", "cat"),
        refer_record(3, 25, 102, "testA", "brown dog"),
    ]
    (root / dataset / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    return root
