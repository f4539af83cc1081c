"""Pictures that people attach, whole and damaged, in every mode that files have."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llmbind_cli.data import pictures
from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import InputDataError


@pytest.fixture
def saved(tmp_path):
    """Save a picture and return its path."""

    def save(picture, name="picture.png", **options):
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def gradient(mode="RGB"):
    levels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
    return Image.fromarray(levels).convert(mode)


def test_a_plain_picture_is_read_as_it_is(saved):
    assert np.array_equal(np.asarray(read_picture(saved(gradient()))), np.asarray(gradient()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_the_viewer_sees_it(saved, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_picture(saved(gradient(), exif=exif))
    turned = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: np.rot90,
    }  # fmt: skip
    assert np.array_equal(np.asarray(found), turned[orientation](np.asarray(gradient())))


def test_sixteen_bits_become_eight(saved):
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    found = np.asarray(read_picture(saved(Image.fromarray(levels))))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_level_of_sixteen_bits_may_be_seen_through(saved):
    levels = np.array([[0, 1000, 1001, 65535]], dtype=np.uint16)  # 1000 and 1001 are one level of 8
    path = saved(Image.fromarray(levels), transparency=1000)
    assert np.asarray(read_picture(path))[0, :, 0].tolist() == [0, 255, 3, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_lie_on_white(saved, mode):
    picture = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    found = read_picture(saved(picture.quantize() if mode == "P" else picture.convert(mode)))
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert found.getpixel((1, 0)) == ((200, 0, 0) if mode != "LA" else (60, 60, 60))


@pytest.mark.parametrize(
    ("mode", "name"),
    [("CMYK", "p.jpg"), ("L", "p.png"), ("1", "p.png"), ("P", "p.gif"), ("RGB", "p.webp"),
     ("RGB", "p.bmp"), ("F", "p.tiff"), ("I;16", "p.tiff"), ("RGB", "p.ppm")],
)  # fmt: skip
def test_every_mode_becomes_rgb_of_the_same_size(saved, mode, name):
    picture = Image.new("I;16", (6, 4)) if mode == "I;16" else gradient(mode)
    found = read_picture(saved(picture, name))
    assert (found.mode, found.size) == ("RGB", (6, 4))


def test_the_content_decides_not_the_name(saved):
    assert read_picture(saved(gradient(), "really.jpg", format="PNG")).size == (6, 4)


def test_too_many_pixels_are_refused_before_decoding(saved, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 20)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: 1 / 0)
    with pytest.raises(InputDataError, match="6 × 4 px is more than the 20"):
        read_picture(saved(gradient()))


def test_a_bomb_of_gigapixels_is_refused(tmp_path):
    # The header of a PNG of 60,000 × 60,000 px, and no more.
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(InputDataError, match=r"bomb\.png"):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize("name", ["none.png", ".", "a\0b", "a" * 300])
def test_what_is_no_file_is_named(tmp_path, name):
    with pytest.raises(InputDataError, match="no such file"):
        read_picture(tmp_path / name)


def encoded(kind):
    stream = io.BytesIO()
    gradient().save(stream, format=kind)
    return stream.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")}


@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 10_000), st.integers(0, 255))
def test_damage_is_an_input_error_or_a_picture(tmp_path_factory, kind, place, value):
    content = bytearray(WHOLE[kind])
    content[place % len(content)] = value
    path = tmp_path_factory.mktemp("damaged") / "picture"
    path.write_bytes(content if place % 2 else content[: place % len(content)])
    with contextlib.suppress(InputDataError):
        assert read_picture(path).mode == "RGB"
