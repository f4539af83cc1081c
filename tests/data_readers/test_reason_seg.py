"""ReasonSeg: outlines, pixels that are left out, odd encodings, explanations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tiny_photos import HEIGHT, WIDTH, save_json, save_photo

from llmbind_cli.data.segmentation.reason_seg import read_reason_seg
from llmbind_cli.errors import InputDataError


def shape(label, *points):
    return {"label": label, "labels": [label], "shape_type": "polygon", "image_name": "a.jpg",
            "points": [list(point) for point in points], "group_id": None, "flags": {}}  # fmt: skip


TARGET = shape("target", (2, 2), (20.7, 2), (20, 15), (2, 15))
IGNORED = shape("ignore_1", (5, 5), (9, 5), (9, 9), (5, 9))
FLAG = shape("flag", (0, 0), (39, 0), (39, 29), (0, 29))


@pytest.fixture
def root(tmp_path):
    save_photo(tmp_path / "train" / "a.jpg")
    record = {
        "text": ["What  could hold water?"],
        "is_sentence": True,
        "shapes": [IGNORED, FLAG, TARGET],
    }
    save_json(tmp_path / "train" / "a.json", record)
    return tmp_path


def change(root, **fields):
    path = root / "train" / "a.json"
    save_json(path, json.loads(path.read_text()) | fields)


def test_target_and_ignored_pixels(root):
    (picture,) = read_reason_seg("reason", root=root).pictures
    (region,) = picture.regions
    assert region.names == ("What could hold water?",)
    assert region.naming == "sentence"
    assert picture.picture.key == "reason_seg/train/a.jpg"
    mask, ignored = region.mask.decode(), region.ignored.decode()
    assert mask.shape == (HEIGHT, WIDTH)
    assert ignored[5:10, 5:10].all()
    assert ignored.sum() == 25
    assert mask.sum() == 19 * 14 - 25  # lines belong to it, fractions of a pixel are cut off
    assert not (mask & ignored).any()


def test_without_ignored_pixels_and_with_phrases(root):
    change(root, text=["the jar", "the thing that holds water"], is_sentence=False, shapes=[TARGET])
    (picture,) = read_reason_seg("reason", root=root).pictures
    assert picture.regions[0].ignored is None
    assert picture.regions[0].naming == "phrase"
    assert len(picture.regions[0].names) == 2


def test_a_file_of_windows(root):
    path = root / "train" / "a.json"
    record = json.loads(path.read_text()) | {"text": ["the café’s sign"]}
    path.write_bytes(json.dumps(record, ensure_ascii=False).encode("cp1252"))
    (picture,) = read_reason_seg("reason", root=root).pictures
    assert picture.regions[0].names == ("the café’s sign",)


def test_explanations_belong_to_their_pictures(root):
    explanation = {"image": "a.jpg", "query": "?", "outputs": "Jars hold water.", "json": "a.json"}
    save_json(root / "explanatory" / "train.json", [explanation])
    (picture,) = read_reason_seg("reason", root=root).pictures
    assert picture.regions[0].explanation == "Jars hold water."
    (picture,) = read_reason_seg("reason", root=root, explanations=False).pictures
    assert picture.regions[0].explanation == ""


def test_a_turned_photo_has_masks_as_the_viewer_sees_it(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save(
        root / "train" / "a.jpg", exif=exif
    )
    (picture,) = read_reason_seg("reason", root=root).pictures
    assert picture.regions[0].mask.decode().shape == (HEIGHT, WIDTH)
    assert picture.picture.load().size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": []}, r"a\.json: 'text' must hold at least one wording"),
        ({"is_sentence": "yes"}, "'is_sentence' must be"),
        ({"shapes": [{"label": "target"}]}, r"shapes\[0\]: 'points' must be a list"),
        ({"shapes": [shape("x", (1, 2, 3))]}, r"shapes\[0\]: 'points' must be \[\[x, y\]"),
        ({"shapes": [shape("x", (1, "2"))]}, None),
        ({"shapes": [shape("x", (1, float("inf")))]}, "outside of any picture"),
    ],
)
def test_broken_records_are_named(root, fields, message):
    change(root, **fields)
    if message is None:
        fields["shapes"][0]["points"] = [[1, "two"]]
        change(root, **fields)
        message = r"shapes\[0\]: coordinates must be numbers"
    with pytest.raises(InputDataError, match=message):
        read_reason_seg("reason", root=root)


def test_missing_files(root):
    (root / "train" / "a.jpg").unlink()
    with pytest.raises(InputDataError, match=r"reason: 1 of 1 pictures are missing"):
        read_reason_seg("reason", root=root)
    with pytest.raises(InputDataError, match=r"val is missing"):
        read_reason_seg("reason", root=root, splits=("val",))
    save_photo(root / "train" / "b.jpg")
    with pytest.raises(InputDataError, match=r"1 pictures have no JSON file.*b\.jpg"):
        read_reason_seg("reason", root=root)
    (root / "train" / "a.json").write_text("{")
    with pytest.raises(InputDataError, match=r"a\.json: line 1: no JSON"):
        read_reason_seg("reason", root=root)
