"""Scenes: the same for a seed, inside the picture, and on one side of the hold-out."""

from __future__ import annotations

from itertools import combinations, islice

import pytest

from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.graph import Background, Box, PlacedThing, Scene
from llmbind_cli.data.scenes.sampling import (
    KINDS,
    SceneSampler,
    is_held_out_colour,
    is_held_out_pair,
)

MANY = 1500


def test_the_same_seed_gives_the_same_scenes(world):
    one, two, other = (SceneSampler(world, seed) for seed in (3, 3, 4))
    first = list(islice(one, 50))
    assert first == [two[number] for number in range(50)]
    assert first != [other[number] for number in range(50)]


def test_the_hold_out_never_changes(world):
    """Literals: what was held out when the first generator was trained."""
    dog, cat, leopard = world["dog"], world["cat"], world["leopard"]
    assert [name for name in NAMES if is_held_out_colour(dog, name)] == ["red", "purple", "pink"]
    assert [name for name in NAMES if is_held_out_colour(cat, name)] == ["brown"]
    assert is_held_out_pair(leopard, cat)
    assert not is_held_out_pair(dog, cat)


@pytest.mark.parametrize("kind", KINDS)
def test_every_box_lies_inside(world, kind):
    sampler = SceneSampler(world, 1, mix={kind: 1.0})
    for scene in islice(sampler, 300):
        for _, box in scene.instances():
            assert 0 <= box.left < box.right <= 1
            assert 0 <= box.top < box.bottom <= 1
            assert box.width == pytest.approx(box.height)
        assert len(scene.instances()) == sum(placed.count for placed in scene.things)


def test_several_of_a_kind_do_not_overlap(world):
    for scene in islice(SceneSampler(world, 2, mix={"counted": 1.0}), 200):
        for (_, a), (_, b) in combinations(scene.instances(), 2):
            apart = max(abs(a.centre[0] - b.centre[0]), abs(a.centre[1] - b.centre[1]))
            assert apart >= a.width - 1e-6


def test_training_never_sees_what_is_held_out(world):
    for scene in islice(SceneSampler(world, 5), MANY):
        for placed in scene.things:
            assert placed.colour is None or not is_held_out_colour(placed.thing, placed.colour)
        for a, b in combinations(scene.things, 2):
            assert not is_held_out_pair(a.thing, b.thing)


def test_held_out_scenes_hold_nothing_else(world):
    for scene in islice(SceneSampler(world, 5, mix={"coloured": 1.0}, held_out=True), 200):
        (placed,) = scene.things
        assert is_held_out_colour(placed.thing, placed.colour)
    for scene in islice(SceneSampler(world, 5, mix={"pair": 1.0}, held_out=True), 200):
        a, b = scene.things
        assert is_held_out_pair(a.thing, b.thing)
        assert is_held_out_pair(b.thing, a.thing)


def test_about_a_tenth_is_held_out(world):
    things = world.things[:150]
    pairs = [is_held_out_pair(a, b) for a, b in combinations(things, 2)]
    assert 0.08 < sum(pairs) / len(pairs) < 0.12
    colours = [
        is_held_out_colour(thing, name)
        for thing in world
        for name in NAMES
        if name not in thing.colours
    ]
    assert 0.085 < sum(colours) / len(colours) < 0.115
    assert not any(is_held_out_colour(thing, name) for thing in world for name in thing.colours)


def test_a_mix_is_checked(world):
    with pytest.raises(ValueError, match="mix"):
        SceneSampler(world, 0, mix={})
    with pytest.raises(ValueError, match="held-out"):
        SceneSampler(world, 0, mix={"single": 1.0}, held_out=True)


def test_sides_follow_from_the_places(world):
    def two(first, second):
        placed = [PlacedThing(thing=world[n], box=b) for n, b in (("dog", first), ("cat", second))]
        return Scene(tuple(placed)).relation(0, 1)

    left, right = Box(0, 0.3, 0.4, 0.7), Box(0.6, 0.3, 1, 0.7)
    top, bottom = Box(0.3, 0, 0.7, 0.4), Box(0.3, 0.6, 0.7, 1)
    assert two(left, right) == "left of"
    assert two(right, left) == "right of"
    assert two(top, bottom) == "above"
    assert two(bottom, top) == "below"
    assert two(left, left) is None


def test_what_cannot_be_is_refused(world):
    box = Box(0, 0, 1, 1)
    with pytest.raises(ValueError, match="in the picture"):
        Box(0.5, 0, 1.2, 1)
    with pytest.raises(ValueError, match="colour"):
        PlacedThing(thing=world["dog"], box=box, colour="octarine")
    with pytest.raises(ValueError, match="count"):
        PlacedThing(thing=world["dog"], box=box, count=4)
    with pytest.raises(ValueError, match="look"):
        PlacedThing(thing=world["dog"], box=box, look=9)
    with pytest.raises(ValueError, match="plain background"):
        Background("plain")
    with pytest.raises(ValueError, match="1 to 3"):
        Scene(())


def test_steady_scenes_have_three_sizes_and_few_places(world):
    sampler = SceneSampler(world, 5, steady=True)
    boxes = [box for number in range(400) for _, box in sampler[number].instances()]
    assert {(box.width, box.height) for box in boxes} == {(0.5, 0.5), (0.75, 0.75), (1.0, 1.0)}
    assert all(8 * edge % 1 == 0 for box in boxes for edge in (box.left, box.top))
    assert {box.left for box in boxes if box.width == 0.5} == {0.0, 0.25, 0.5}
