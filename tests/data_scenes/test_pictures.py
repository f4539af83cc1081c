"""Pictures of scenes, their masks, and painting a thing in another colour."""

from __future__ import annotations

from itertools import islice
from typing import get_args

import numpy as np
import pytest

from llmbind_cli.data.scenes.backgrounds import draw_background
from llmbind_cli.data.scenes.colours import COLOURS, HUED, NAMES, classify, from_oklab, to_oklab
from llmbind_cli.data.scenes.compose import render
from llmbind_cli.data.scenes.graph import Background, BackgroundKind, Box, PlacedThing, Scene
from llmbind_cli.data.scenes.recolour import recolour
from llmbind_cli.data.scenes.sampling import SceneSampler
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.errors import InputDataError

SIZE = 40


def main_colour(picture: np.ndarray) -> str:
    seen = picture[picture[..., 3] > 127][:, :3]
    return NAMES[int(np.bincount(classify(to_oklab(seen / 255.0))).argmax())]


def grown(mask: np.ndarray) -> np.ndarray:
    """A mask and the two pixels around it."""
    wide = np.pad(mask, 2)
    shifts = [(dy, dx) for dy in range(5) for dx in range(5)]
    return np.any([wide[dy : dy + SIZE, dx : dx + SIZE] for dy, dx in shifts], axis=0)


def test_the_same_scene_gives_the_same_picture(world, sprites):
    for scene in islice(SceneSampler(world, 8), 40):
        picture, masks = render(scene, sprites, SIZE)
        again, _ = render(scene, sprites, SIZE)
        assert picture.shape == (SIZE, SIZE, 3)
        assert picture.dtype == np.uint8
        assert (picture == again).all()
        assert masks.shape == (len(scene.instances()), SIZE, SIZE)


def test_masks_add_up_to_what_differs_from_the_background(world, sprites):
    for scene in islice(SceneSampler(world, 9), 60):
        picture, masks = render(scene, sprites, SIZE)
        behind = np.clip(np.rint(draw_background(scene.background, scene.shade, SIZE)), 0, 255)
        assert masks.sum(axis=0).max() <= 1
        untouched = (picture == behind).all(axis=-1)
        # A rim pixel that a thing covers by less than half belongs to nobody, yet is tinted.
        whole = masks.any(axis=0)
        assert (untouched & whole).sum() <= 0.02 * masks.sum()
        assert not (~untouched & ~grown(whole)).any()
        for mask, (_, box) in zip(masks, scene.instances(), strict=True):
            rows, columns = np.nonzero(mask)
            assert rows.min() >= box.top * SIZE - 1
            assert rows.max() <= box.bottom * SIZE
            assert columns.min() >= box.left * SIZE - 1
            assert columns.max() <= box.right * SIZE


def test_what_lies_in_front_hides_what_lies_behind(world, sprites):
    whole = Box(0, 0, 1, 1)
    things = [PlacedThing(thing=world[name], box=whole) for name in ("dog", "cat")]
    _, masks = render(Scene(tuple(things)), sprites, SIZE)
    assert not masks[0].any()
    assert masks[1].any()


def test_flipping_mirrors(world, sprites):
    box = Box(0, 0, 1, 1)
    plain, mirrored = (
        render(Scene((PlacedThing(thing=world["dog"], box=box, flip=flip),)), sprites, SIZE)[0]
        for flip in (False, True)
    )
    assert (plain == mirrored[:, ::-1]).all()
    assert (plain != mirrored).any()


@pytest.mark.parametrize("kind", [kind for kind in get_args(BackgroundKind) if kind != "plain"])
def test_backgrounds_fill_the_picture(kind):
    picture = draw_background(Background(kind), 0.3, SIZE)
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.min() >= 0
    assert picture.max() <= 255


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_background_has_its_colour(name):
    picture = draw_background(Background("plain", name), 0.8, 4)
    assert NAMES[int(classify(to_oklab(picture / 255))[0, 0])] == name


@pytest.mark.parametrize("name", NAMES)
def test_each_named_colour_is_called_by_its_name(name):
    colour = COLOURS[name]
    hue = np.radians(colour.hue)
    lab = [colour.lightness, colour.chroma * np.cos(hue), colour.chroma * np.sin(hue)]
    assert NAMES[int(classify(np.array(lab)))] == name


def test_oklab_against_the_values_its_author_publishes():
    """https://bottosson.github.io/posts/oklab/: white is L 1; these are its primaries."""
    rgb = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 1]], np.float32)
    expected = [[1, 0, 0], [0.628, 0.2249, 0.1258], [0.452, -0.0325, -0.3115]]
    # The matrices are published with ten digits; float32 leaves about 1e-6, the literals 1e-4.
    assert to_oklab(rgb) == pytest.approx(np.array(expected), abs=2e-4)
    assert from_oklab(to_oklab(rgb)) == pytest.approx(rgb, abs=2e-4)


@pytest.mark.parametrize("start", [(210, 60, 40), (60, 160, 70), (205, 205, 205), (50, 50, 54)])
@pytest.mark.parametrize("name", NAMES)
def test_a_painted_thing_has_the_colour_and_stays_the_drawing(disc, start, name):
    before = disc(start)
    after = recolour(before, name)
    assert main_colour(after) == name
    assert (after[..., 3] == before[..., 3]).all()
    light = to_oklab(after[..., :3] / 255.0)[..., 0]
    middle = len(before) // 2
    if name in HUED:
        rim = light[before[..., 3] > 0].min()
        assert rim < 0.3 or min(start) == 50, "the outline is gone"
        assert light[6, 6] > light[-7, -7], "the shading is gone"
    assert light[middle, middle] != pytest.approx(light[6, 6], abs=1e-3)


def test_sprites_are_read_back(tmp_path, disc):
    path = tmp_path / "sheet.npz"
    np.savez_compressed(path, codes=np.array(["1f415"]), pictures=disc((1, 2, 3))[None])
    sheet = Sprites.load(path)
    assert "1f415" in sheet
    assert "1f408" not in sheet
    assert (sheet["1f415"] == disc((1, 2, 3))).all()
    assert sheet.scaled(12).size_px == 12


def test_a_file_that_is_no_sheet_is_named(tmp_path):
    path = tmp_path / "sheet.npz"
    path.write_bytes(b"no sheet")
    with pytest.raises(InputDataError, match=r"sheet\.npz"):
        Sprites.load(path)
    with pytest.raises(ValueError, match="pictures"):
        Sprites(codes=("1f415",), pictures=np.zeros((2, 8, 8, 4), np.uint8))
