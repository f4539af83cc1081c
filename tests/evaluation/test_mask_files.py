"""What the numbers of a mask file mean."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.mask_files import prediction_of, read_mask, target_of

MASK = np.array([[0, 1, 1], [0, 0, 1]], dtype=np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB"])
@pytest.mark.parametrize("value", [1, 255])
def test_every_one_channel_form_covers_the_same_pixels(tmp_path, mode, value):
    picture = Image.fromarray(MASK * value)
    if mode == "1":
        picture = Image.fromarray(MASK.astype(bool))
    elif mode == "P":
        picture = Image.frombytes("P", (3, 2), (MASK * value).tobytes())
        picture.putpalette([0, 0, 0] * 256)
    elif mode == "I;16":
        picture = Image.fromarray(MASK.astype(np.uint16) * (257 * value))
    elif mode == "RGB":
        picture = picture.convert("RGB")
    picture.save(tmp_path / "m.png")
    numbers = read_mask(tmp_path / "m.png")
    np.testing.assert_array_equal(prediction_of(numbers, tmp_path), MASK.astype(bool))
    target, values = target_of(numbers, tmp_path, ignore_label=None)
    np.testing.assert_array_equal(target, MASK.astype(bool))
    assert len(values) == 1


def test_an_ignored_label_is_left_out_only_when_it_is_named(tmp_path):
    numbers = np.array([[0, 1, 255]], dtype=np.uint8)
    target, values = target_of(numbers, tmp_path, ignore_label=255)
    assert target.tolist() == [[0, 1, 255]]
    assert values == [1]
    target, values = target_of(numbers // 255 * 7, tmp_path, ignore_label=7)
    assert target.tolist() == [[0, 0, 255]]
    assert values == []
    with pytest.raises(InputDataError, match=r"has 1, 255 beside 0.*--ignore-label"):
        target_of(numbers, tmp_path, ignore_label=None)


def test_a_prediction_of_scores_is_no_mask(tmp_path):
    with pytest.raises(InputDataError, match="has 1, 2, 3, 4, 5, 6, 7, 8 and 11 more"):
        prediction_of(np.arange(20, dtype=np.uint8)[None], tmp_path)


def test_the_frame_is_the_viewer_s(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    Image.fromarray(MASK).save(tmp_path / "m.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), np.rot90(MASK, -1))


def test_what_is_no_mask(tmp_path):
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[0, 0, 0] = 9
    Image.fromarray(colours).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "alpha.png")
    (tmp_path / "text.png").write_bytes(b"hello")
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8)).save(
        tmp_path / "cut.png"
    )
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    for name, problem in (
        ("colour", "one channel, and this picture is RGB"),
        ("alpha", "one channel, and this picture is RGBA"),
        ("text", "cannot be read as a mask"),
        ("cut", "cannot be read as a mask"),
        ("none", "no such file"),
    ):
        with pytest.raises(InputDataError, match=rf"{name}\.png: .*{problem}"):
            read_mask(tmp_path / f"{name}.png")
