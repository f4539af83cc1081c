"""Run-length encoded masks, as COCO files hold them.

The runs follow the columns of a mask from top to bottom and left to right; the first one is of
background and may be 0. Compressed, they are a text of six bits a character: each number is told
as its difference from the one two places before it (cocodataset/cocoapi 8c9bcc3,
``common/maskApi.c``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_DELTAS_FROM = 3
"""Index of the first run that is told as a difference."""


def decode_runs(runs: Sequence[int], height: int, width: int) -> Mask:
    """Turn runs into a mask.

    Args:
        runs: Lengths of alternating runs, background first, each ≥ 0.
        height: H in pixels.
        width: W in pixels.

    Returns:
        [H, W] bool.

    Raises:
        ValueError: The runs do not add up to H · W, or one is negative.
    """
    area = height * width
    wanted = f"runs must be ≥ 0 and add up to {height} × {width} = {area}"
    try:
        lengths = np.asarray(runs, np.int64)
    except OverflowError as error:
        raise ValueError(f"{wanted}, got one that 64 bits cannot hold") from error
    # The sum of many large runs might be more than 64 bits hold, so each is looked at first.
    if lengths.ndim != 1 or ((lengths < 0) | (lengths > area)).any() or lengths.sum() != area:
        raise ValueError(f"{wanted}, got a sum of {sum(lengths.ravel().tolist())}")
    values = np.arange(len(lengths)) % 2 == 1
    flat: Mask = np.repeat(values, lengths)
    return flat.reshape(width, height).T


def encode_runs(mask: Mask) -> list[int]:
    """Turn a mask into runs.

    Args:
        mask: [H, W] bool.

    Returns:
        The lengths, background first; a mask that begins with foreground begins with 0.
    """
    flat = np.asarray(mask, np.bool_).T.ravel()
    if not flat.size:
        return []
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def runs_from_text(text: str) -> list[int]:
    """Read compressed runs.

    Raises:
        ValueError: The text ends within a number, or has a character outside of ``0`` … ``o``.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} stands in no compressed run")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) >= _DELTAS_FROM else 0))
        number = shift = 0
    if shift:
        raise ValueError("the compressed runs end within a number")
    return runs


def runs_to_text(runs: Sequence[int]) -> str:
    """Compress runs."""
    characters = []
    for index, run in enumerate(runs):
        rest = run - (runs[index - 2] if index >= _DELTAS_FROM else 0)
        more = True
        while more:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            characters.append(chr((bits | 32 if more else bits) + 48))
    return "".join(characters)


def coco_rle(mask: Mask) -> dict[str, Any]:
    """Return a mask as COCO's object: ``{"size": [H, W], "counts": text}``."""
    height, width = mask.shape
    return {"size": [int(height), int(width)], "counts": runs_to_text(encode_runs(mask))}
