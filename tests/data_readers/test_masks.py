"""Masks: exact pixels of polygons and runs, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from llmbind_cli.data.masks import PaintedMask, PolygonMask, RleMask, read_segmentation
from llmbind_cli.data.polygons import fill_coco, fill_outlined
from llmbind_cli.data.rle import (
    coco_rle,
    decode_runs,
    encode_runs,
    runs_from_text,
    runs_to_text,
)
from llmbind_cli.errors import InputDataError


def shapes(seed: int, count: int, *, margin: float = 8):
    """Polygons that cross themselves, leave the picture and repeat corners."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        points = rng.uniform(-margin, max(height, width) + margin, (rng.integers(3, 12), 2))
        if number % 3 == 0:
            points = np.round(points)
        if number % 5 == 0:
            points = np.repeat(points, 2, axis=0)
        yield points, height, width


def test_a_rectangle_on_whole_pixels_fills_them():
    mask = fill_coco(np.array([[2.0, 1], [6, 1], [6, 4], [2, 4]]), 6, 8)
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    assert (mask == expected).all()


def test_what_is_inside_twice_is_outside():
    square = [[1.0, 1], [9, 1], [9, 9], [1, 9]]
    inner = [[3.0, 3], [7, 3], [7, 7], [3, 7]]
    ring = fill_coco(np.array([*square, square[0], *inner, inner[0]]), 10, 10)
    assert ring.sum() == 64 - 16


def test_overlapping_polygons_are_a_union():
    mask = PolygonMask(
        (
            np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]]),
            np.array([[2.0, 2], [6, 2], [6, 6], [2, 6]]),
        ),
        8,
        8,
    ).decode()
    assert mask.dtype == bool
    assert mask.sum() == 16 + 16 - 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own use of numpy
def test_polygons_and_runs_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for points, height, width in shapes(0, 400):
        encoded = coco.frPyObjects([points.ravel().tolist()], height, width)[0]
        reference = coco.decode(encoded).astype(bool)
        assert (fill_coco(points, height, width) == reference).all()
        text = encoded["counts"].decode()
        assert runs_from_text(text) == encode_runs(reference)
        assert runs_to_text(encode_runs(reference)) == text


def test_outlined_polygons_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    for points, height, width in shapes(1, 400, margin=0):
        inside = np.minimum(points, [width - 1, height - 1])
        corners = np.array([inside], np.int32)
        reference = np.zeros((height, width), np.uint8)
        cv2.polylines(reference, corners, True, 1, 1)
        cv2.fillPoly(reference, corners, 1)
        assert (fill_outlined(inside, height, width) == reference.astype(bool)).all()


def literal_fill(points, height, width):
    """COCO's rule, one fine step after the other, as slowly as it is told."""
    corners = [(int(5 * x + 0.5), int(5 * y + 0.5)) for x, y in points]
    across, down = [], []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        dx, dy = abs(x1 - x0), abs(y1 - y0)
        flip = (dx >= dy and x0 > x1) or (dx < dy and y0 > y1)
        (xs, ys), (xe, ye) = ((x1, y1), (x0, y0)) if flip else ((x0, y0), (x1, y1))
        steps = max(dx, dy)
        walk = range(steps, -1, -1) if flip else range(steps + 1)
        for step in walk:
            if dx >= dy:
                across.append(xs + step)
                down.append(int(ys + ((ye - ys) / dx if dx else 0) * step + 0.5))
            else:
                across.append(int(xs + (xe - xs) / dy * step + 0.5))
                down.append(ys + step)
    flat = np.zeros(height * width + 1, int)
    for i in range(1, len(across)):
        if across[i] != across[i - 1]:
            x = (min(across[i], across[i - 1]) + 0.5) / 5 - 0.5
            if x == int(x) and 0 <= x <= width - 1:
                y = (min(down[i], down[i - 1]) + 0.5) / 5 - 0.5
                flat[int(x) * height + int(np.ceil(min(max(y, 0), height)))] += 1
    return (np.cumsum(flat)[:-1] % 2 == 1).reshape(width, height).T


def test_polygons_are_those_of_the_literal_rule():
    for points, height, width in shapes(2, 200):
        assert (fill_coco(points, height, width) == literal_fill(points, height, width)).all()


def test_runs_there_and_back():
    rng = np.random.default_rng(3)
    for _ in range(100):
        mask = rng.random(tuple(rng.integers(1, 20, 2))) < rng.random()
        runs = encode_runs(mask)
        assert (decode_runs(runs, *mask.shape) == mask).all()
        assert runs_from_text(runs_to_text(runs)) == runs
    assert encode_runs(np.ones((2, 2), bool)) == [0, 4]


def test_a_frozen_rle():
    """Written by pycocotools 2.0.11: mask.encode of a 9 × 7 mask with [2:5, 1:6] set."""
    mask = np.zeros((9, 7), bool)
    mask[2:5, 1:6] = True
    assert coco_rle(mask) == {"size": [9, 7], "counts": ";3600000007"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": [3, 4], "counts": [1, 2]}, "the runs add up to 3, not to 3 × 4"),
        ({"size": [4, 3], "counts": [12]}, r"the RLE has the size \[4, 3\], its picture \[3, 4\]"),
        ({"size": [3, 4], "counts": [-1, 13]}, "whole numbers"),
        ({"size": [3, 4], "counts": "?\x00"}, "broken RLE"),
        ({"size": [3, 4], "counts": "P"}, "end within a number"),
        ([[1, 2, 3, 4]], r"f.json: x: polygon 0: must be \[x1"),
        ([[1, 2, 3, 4, 5]], "polygon 0"),
        ([[1, 2, 3, 4, 5, "6"], [1]], "polygon 1|numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "outside of any picture"),
        ("everything", "must be polygons or RLE"),
    ],
)
def test_broken_masks_are_refused_with_their_place(value, message):
    with pytest.raises(InputDataError, match=message):
        read_segmentation(value, 3, 4, "f.json: x")


def test_all_kinds_of_coco_masks_are_read():
    assert read_segmentation([], 3, 4, "x") is None
    runs = read_segmentation({"size": [3, 4], "counts": [1, 2, 9]}, 3, 4, "x")
    assert runs == RleMask((1, 2, 9), 3, 4)
    both = read_segmentation(
        [{"size": [3, 4], "counts": [1, 2, 9]}, {"size": [3, 4], "counts": [2, 2, 8]}], 3, 4, "x"
    )
    assert both.decode().sum() == 3
    text = runs_to_text([1, 2, 9])
    assert read_segmentation([{"size": [3, 4], "counts": text}], 3, 4, "x") == runs


def test_smaller_layers_lie_on_larger_ones(tmp_path):
    from tiny_photos import save_photo

    photo = save_photo(tmp_path / "p.png", size=(10, 10))
    large = np.array([[0.0, 0], [9, 0], [9, 9], [0, 9]])
    small = np.array([[2.0, 2], [4, 2], [4, 4], [2, 4]])
    layers = ((small, 255), (large, 1))
    assert PaintedMask(layers, photo, 1).decode().sum() == 100 - 9
    assert PaintedMask(layers, photo, 255).decode().sum() == 9
