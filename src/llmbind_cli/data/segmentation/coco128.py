"""COCO128: 128 photos of COCO train2017 with all annotations, split once and for all by image."""

from __future__ import annotations

from pathlib import Path

from llmbind_cli.data.segmentation.annotations import Annotations
from llmbind_cli.data.segmentation.coco128_split import Coco128Split, coco128_images
from llmbind_cli.data.segmentation.instances import read_coco_instances


def read_coco128(
    name: str, *, root: Path, split: Coco128Split, skip_missing: bool = False
) -> Annotations:
    """Read a part of COCO128 with expressions by class and by place.

    Args:
        name: Data source, for messages.
        root: Folder with ``annotations/instances_train2017.json`` and ``train2017/``.
        split: Which part.
        skip_missing: Leave out photos that are missing, and count them.

    Raises:
        InputDataError: A file is missing or broken.
    """
    return read_coco_instances(
        name,
        annotations=root / "annotations" / "instances_train2017.json",
        photos=root / "train2017",
        images=coco128_images(split),
        places=True,
        skip_missing=skip_missing,
    )
