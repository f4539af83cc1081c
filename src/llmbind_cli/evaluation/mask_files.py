"""Masks on disk, and the one rule by which their numbers mean foreground.

A mask file has one channel (grey, palette or black and white; colour only where red, green and blue
are alike). 0 is background. A file of two values is read by what is not 0, whether that is 1 or
255. Which numbers are left out is never guessed: it has to be said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli.data.pictures import opened_picture
from llmbind_cli.errors import InputDataError
from llmbind_cli.metrics.iou import IGNORED

Array = np.ndarray[Any, Any]

_ONE_CHANNEL = frozenset({"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_SHOWN = 8


def read_mask(path: Path) -> Array:
    """Read the numbers of a mask, in the frame the viewer sees.

    Args:
        path: PNG or another picture file. Of a palette picture the indices count.

    Returns:
        Integers, [H, W].

    Raises:
        InputDataError: It is missing, no picture, damaged, too large, or in colour.
    """
    from PIL import ImageOps

    with opened_picture(path, kind="mask") as opened:
        picture = ImageOps.exif_transpose(opened)
        numbers = np.asarray(picture)
        mode = picture.mode
    if mode in _ONE_CHANNEL:
        return numbers.astype(np.int64) if numbers.dtype != np.uint8 else numbers
    if mode == "RGB" and (numbers == numbers[..., :1]).all():
        return numbers[..., 0]
    raise InputDataError(f"{path}: a mask needs one channel, and this picture is {mode}")


def prediction_of(numbers: Array, path: Path) -> Array:
    """Give the pixels that a predicted mask covers: bool, [H, W].

    Raises:
        InputDataError: It has more than two values, so it is no mask.
    """
    values = _labels(numbers)
    if len(values) > 1:
        raise InputDataError(
            f"{path}: a predicted mask has 0 and one other value, and this one has "
            f"{_worded(values)}"
        )
    covered: Array = numbers != 0
    return covered


def target_of(numbers: Array, path: Path, *, ignore_label: int | None) -> tuple[Array, list[int]]:
    """Give the target that a reference mask states.

    Args:
        numbers: Of :func:`read_mask`.
        path: For messages.
        ignore_label: The number of the pixels that are left out; ``None`` if there are none.

    Returns:
        The target as :func:`llmbind_cli.metrics.iou.ciou_giou` takes it, and the numbers that
        were read as foreground.

    Raises:
        InputDataError: There are several foreground numbers, so one may mean something else.
    """
    values = [value for value in _labels(numbers) if value != ignore_label]
    if len(values) > 1:
        raise InputDataError(
            f"{path}: has {_worded(values)} beside 0; if one of them marks pixels to leave out, "
            "name it with --ignore-label"
        )
    foreground: Array = np.isin(numbers, values)
    if ignore_label is None:
        return foreground, values
    return np.where(numbers == ignore_label, IGNORED, foreground).astype(np.uint8), values


def _labels(numbers: Array) -> list[int]:
    if numbers.dtype == np.uint8:
        present = np.flatnonzero(np.bincount(numbers.ravel(), minlength=256))
    else:
        present = np.unique(numbers)
    return [int(value) for value in present if value != 0]


def _worded(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:_SHOWN]))
    return f"{shown} and {len(values) - _SHOWN} more" if len(values) > _SHOWN else shown
