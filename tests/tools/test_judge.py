"""The judge of pictures: its network, its training, and what it reads off pictures."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "embedded_generator"))

from judge import foreground, network, recognise, styles, training, views

from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World, load_world

if TYPE_CHECKING:
    from numpy.typing import NDArray

RED, BLUE, WHITE = (220, 30, 40), (40, 90, 220), (255, 255, 255)


def disc(colour: tuple[int, int, int], side: int = 32) -> NDArray[np.uint8]:
    """[side, side, 4]: a disc of one colour that leaves a rim of two pixels."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = np.hypot(x, y) < side / 2 - 2
    sprite = np.zeros((side, side, 4), np.uint8)
    sprite[inside] = (*colour, 255)
    return sprite


def picture(
    *spots: tuple[int, int, tuple[int, int, int]], ground: Any = WHITE
) -> NDArray[np.uint8]:
    """[1, 64, 64, 3]: discs of 32 px with their left upper corners at (left, top)."""
    canvas = np.empty((64, 64, 3), np.uint8)
    canvas[:] = ground
    for left, top, colour in spots:
        sprite = disc(colour)
        part = canvas[top : top + 32, left : left + 32]
        part[sprite[..., 3] > 0] = colour
    return canvas[None]


@pytest.fixture
def small_world() -> World:
    return World(load_world().things[:2])


@pytest.fixture
def small_views(small_world: World) -> views.Views:
    codes = tuple(code for thing in small_world for code in thing.codes)
    pictures = np.stack([disc(RED if n % 2 else BLUE) for n in range(len(codes))])
    drawn = {"discs": Sprites(codes=codes, pictures=pictures)}
    return views.Views(world=small_world, styles=drawn, seed=3)


class ByColour(nn.Module):
    """Takes blue for thing 0 and red for thing 1."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, pictures: Tensor) -> Tensor:
        red, blue = pictures[:, 0].mean((1, 2)), pictures[:, 2].mean((1, 2))
        return torch.stack([blue - red, red - blue], 1) * 20


@pytest.fixture
def by_colour(small_world: World) -> recognise.Judge:
    return recognise.Judge(network=ByColour(), world=small_world)  # type: ignore[arg-type]


def test_views_follow_from_their_number(small_views: views.Views) -> None:
    pictures, labels = small_views.batch(5, 6)
    again, labels_again = small_views.batch(5, 6)
    other, _ = small_views.batch(6, 6)
    assert pictures.shape == (6, 3, views.VIEW_PX, views.VIEW_PX)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    torch.testing.assert_close(pictures, again, atol=0, rtol=0)
    assert labels.tolist() == labels_again.tolist()
    assert not torch.equal(pictures, other)
    assert set(labels.tolist()) <= {0, 1}


def test_a_thing_that_no_style_draws_is_named(small_world: World) -> None:
    code = small_world.things[0].codes[0]
    sprites = Sprites(codes=(code,), pictures=disc(RED)[None])
    with pytest.raises(ValueError, match=small_world.things[1].name):
        views.Views(world=small_world, styles={"discs": sprites}, seed=0)


def test_a_stopped_run_ends_as_one_that_was_not(
    small_views: views.Views, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 1)

    def run(folder: str, steps: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        start = network.JudgeNetwork(num_things=2)
        settings = training.JudgeTraining(steps=3, batch_size=2, warm_up=1)
        stop = training.JudgeTraining.share_of_rate

        class Stopped(Exception):
            pass

        def share(self: training.JudgeTraining, step: int) -> float:
            if step >= steps:
                raise Stopped
            return stop(self, step)

        with monkeypatch.context() as patch:
            patch.setattr(training.JudgeTraining, "share_of_rate", share)
            with contextlib.suppress(Stopped):
                training.train(
                    views=small_views, settings=settings, folder=tmp_path / folder, network=start
                )
        judge = training.load_judge(
            tmp_path / folder / "judge.safetensors", names=small_views.names
        )
        return judge.state_dict()

    whole = run("whole", 3)
    run("cut", 1)
    cut = run("cut", 3)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, atol=0, rtol=0)
    saved = tmp_path / "cut" / "judge.safetensors"
    turned = training.load_judge(saved, names=small_views.names[::-1])
    torch.testing.assert_close(turned.head.bias, cut["head.bias"].flip(0), atol=0, rtol=0)
    with pytest.raises(ValueError, match=r"does not know .'unicorn cake'"):
        training.load_judge(saved, names=["unicorn cake"])


def test_the_first_head_already_tells_things_apart() -> None:
    class Reds:
        def batch(self, number: int, size: int) -> tuple[Tensor, Tensor]:
            assert number < 0  # training counts from 0: it never sees these
            generator = torch.Generator().manual_seed(-number)
            labels = torch.randint(0, 3, (size,), generator=generator)
            noise = torch.rand(size, 3, 4, 4, generator=generator) * 0.2
            return noise + torch.eye(3)[labels][:, :, None, None], labels

    class Means(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 3)

        def features(self, pictures: Tensor) -> Tensor:
            return pictures.mean((2, 3))

    judge = Means()
    training.fit_head(judge, Reds(), batches=4)  # type: ignore[arg-type]
    pictures, labels = Reds().batch(-99, 64)
    assert judge.head(judge.features(pictures)).argmax(1).tolist() == labels.tolist()


@pytest.mark.parametrize("fades", [False, True])
def test_foreground_is_what_differs_from_the_sides(fades: bool) -> None:
    ground: Any = WHITE
    if fades:
        ground = np.linspace((90, 170, 240), (210, 235, 250), 64)[:, None].astype(np.uint8)
    image = picture((16, 20, RED), ground=ground)
    seen = foreground.foreground(image)
    true = np.zeros((64, 64), bool)
    true[20:52, 16:48] = disc(RED)[..., 3] > 0
    assert (seen[0] != true).mean() < 0.01


def test_boxes_shrink_to_things_and_ignore_specks() -> None:
    things = np.zeros((3, 64, 64), bool)
    things[0, 20:40, 8:24] = True
    things[1, 30:33, 14:17] = True
    windows = np.tile(np.float32((0, 0, 0.5, 1)), (3, 1))
    boxes = foreground.tight_boxes(things, windows, margin=0.0)
    np.testing.assert_allclose(boxes[0], np.array([6, 20, 26, 40]) / 64, atol=1e-6)
    np.testing.assert_array_equal(boxes[1:], windows[1:])


def test_colours_are_read_off_the_foreground() -> None:
    images = np.concatenate([
        picture((16, 16, RED)),
        picture((16, 16, WHITE), ground=BLUE),
        picture(),
    ])  # fmt: skip
    shares = foreground.colour_shares(images)
    assert foreground.has_colour(shares, "red").tolist() == [True, False, False]
    assert foreground.has_colour(shares, "white").tolist() == [False, True, False]
    assert foreground.has_colour(shares, "blue").tolist() == [False, False, False]
    both = picture((0, 16, RED), (32, 16, BLUE))
    left = foreground.colour_shares(both, np.float32([[0, 0, 0.5, 1]]))
    assert foreground.has_colour(left, "red").all()
    assert not foreground.has_colour(left, "blue").any()


def test_difference_is_nought_for_equal_pictures_alone() -> None:
    first, second = picture((0, 0, RED)), picture((32, 32, RED))
    assert foreground.difference(first, first) == 0
    assert foreground.difference(first, second) > 0.2


def test_each_part_of_a_picture_is_recognised(by_colour: recognise.Judge) -> None:
    image = picture((0, 16, RED), (32, 16, BLUE)).repeat(2, 0)
    boxes = np.float32([[0, 0, 0.5, 1], [0.5, 0, 1, 1]])
    seen = by_colour.recognise(image, boxes)
    assert seen.things[:, 0].tolist() == [1, 0]
    assert seen.knows(np.array([1, 1]), 1).tolist() == [True, False]
    assert (np.diff(seen.probabilities, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("spots", "side"),
    [
        (((0, 16, BLUE), (32, 16, RED)), "left of"),
        (((32, 16, BLUE), (0, 16, RED)), "right of"),
        (((16, 0, BLUE), (16, 32, RED)), "above"),
        (((16, 32, BLUE), (16, 0, RED)), "below"),
    ],
)
def test_places_of_pairs(by_colour: recognise.Judge, spots: Any, side: str) -> None:
    blue, red = by_colour.world.things
    pairs = by_colour.recognise_pairs(picture(*spots), [blue], [red])
    assert pairs.sides == (side,)
    assert pairs.both.tolist() == [True]


def test_a_judge_of_another_world_is_refused(small_world: World) -> None:
    with pytest.raises(ValueError, match="knows 3 things, the world has 2"):
        recognise.Judge(network=network.JudgeNetwork(num_things=3), world=small_world)


def test_drawings_are_found_by_code_point_or_by_name(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="resvg-py draws the vectors; tools alone need it")
    square = '<rect width="16" height="16" fill="#f00"/>'
    for folder, icons, chars in (
        ("coded", {"x": {"body": square}}, {"1f412": "x"}),
        ("named", {"wildMonkey": {"body": square}, "empty": {"body": ""}}, {}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "icons.json").write_text(json.dumps({"icons": icons}))
        (tmp_path / folder / "chars.json").write_text(json.dumps(chars))
    names = {"1f412": {"wildmonkey"}, "1f435": {"empty"}}
    for folder in ("coded", "named"):
        drawn = styles.draw_vectors(tmp_path / folder, ["1f412", "1f435"], names)
        assert list(drawn) == ["1f412"]
        assert (drawn["1f412"] == (255, 0, 0, 255)).all()
