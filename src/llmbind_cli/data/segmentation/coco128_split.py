"""Which photos of COCO128 are held out, once and for all.

The split was drawn by a hash of the image numbers; ``coco128_split.json`` is the list.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Literal

SPLIT_FILE = "coco128_split.json"

Coco128Split = Literal["train", "held_out"]


@functools.cache
def coco128_images(split: Coco128Split) -> frozenset[int]:
    """Return the image numbers of a part: 96 to train on, 32 to evaluate on."""
    text = (resources.files(__package__) / SPLIT_FILE).read_text(encoding="utf-8")
    return frozenset(json.loads(text)[split])
