"""Captions name what the scene holds, and the world knows the words of its captions."""

from __future__ import annotations

import re
from itertools import islice
from random import Random

import pytest

from llmbind_cli.data.scenes.captions import caption
from llmbind_cli.data.scenes.colours import COLOUR_WORDS, COLOURS
from llmbind_cli.data.scenes.coverage import nearest
from llmbind_cli.data.scenes.graph import Box, PlacedThing, Scene
from llmbind_cli.data.scenes.sampling import DEFAULT_MIX, SceneSampler

MANY = 800


@pytest.fixture(scope="module")
def scenes(world):
    return list(islice(SceneSampler(world, 11), MANY))


def pair(world, *, colour=None):
    boxes = Box(0.02, 0.3, 0.48, 0.76), Box(0.52, 0.3, 0.98, 0.76)
    return Scene(
        (
            PlacedThing(thing=world["apple"], box=boxes[0], colour=colour),
            PlacedThing(thing=world["cat"], box=boxes[1]),
        )
    )


def test_the_same_chance_gives_the_same_words(scenes):
    assert [caption(s, Random(1)) for s in scenes] == [caption(s, Random(1)) for s in scenes]


def test_every_thing_is_named(scenes):
    for number, scene in enumerate(scenes):
        text = caption(scene, Random(number)).lower()
        for placed in scene.things:
            nouns = (*placed.thing.names, *placed.thing.category_words)
            forms = {form.lower() for noun in nouns for form in (noun.one, noun.many) if form}
            pairs = {form.removeprefix("pairs of ") for form in forms}
            assert any(form in text for form in forms | pairs), (text, placed.thing.name)


def test_captions_are_clean_text(scenes):
    for number, scene in enumerate(scenes):
        text = caption(scene, Random(number))
        assert not re.search(r"[\[\]{}|\x01]|  | ,|^\s|\s$|\ba (?:[aei]|o(?!ne-))|/", text), text
        assert len(text.split()) <= 40


def test_colours_are_told_and_never_another_thing_is_painted(scenes):
    told = 0
    coloured = [
        scene
        for scene in scenes
        if len(scene.things) == 1
        and scene.things[0].colour
        and scene.background.kind in ("white", "night", "room")
    ]
    for number, scene in enumerate(coloured):
        text = caption(scene, Random(number)).lower()
        words = [word for word in COLOURS[scene.things[0].colour].words if word in text]
        told += bool(words)
        named = {COLOUR_WORDS[word] for word in re.findall(r"\w+", text) if word in COLOUR_WORDS}
        # "On a white background" tells of the background; an orange may be the fruit.
        assert named <= {scene.things[0].colour, "white", "orange"}, text
    assert told > 0.85 * len(coloured)


def test_sides_are_told_the_right_way_round(world):
    scene, apples_left = pair(world), 0
    for seed in range(400):
        text = caption(scene, Random(seed))
        if match := re.search(r"^([\w\s'-]+?) (?:to the|on the)? ?left of (.+)", text):
            first = nearest(match[1]).things
            apples_left += 1
            assert [thing.name for thing in first] in (["apple"], []), text
        assert "above" not in text
        assert "below" not in text
    assert apples_left > 10


def test_numbers_agree(world):
    box = Box(0, 0.25, 1, 0.75)
    scene = Scene((PlacedThing(thing=world["dog"], box=box, count=2),))
    for seed in range(100):
        assert re.search(r"\b(?:[Tt]wo|2) ", caption(scene, Random(seed)))


def test_a_scene_has_many_captions(world):
    scene = pair(world, colour="red")
    texts = [caption(scene, Random(seed)) for seed in range(300)]
    assert len(set(texts)) > 270
    assert {"apple", "cat"} <= set(re.findall(r"\w+", " ".join(texts)))
    assert any(text[0].isupper() and text.endswith(".") for text in texts)
    assert any("style" in text for text in texts)


def test_nearly_all_words_of_captions_are_known(scenes):
    unknown = [
        word for n, s in enumerate(scenes) for word in nearest(caption(s, Random(n))).unknown
    ]
    assert len(unknown) < 0.02 * len(scenes), unknown


@pytest.mark.parametrize(
    ("prompt", "things", "unknown"),
    [
        ("a red apple next to a cat", ["apple", "cat"], ()),
        ("two small blue cars on the grass", ["car"], ()),
        ("Puppies!", ["dog"], ()),
        ("an orange cat and an orange", ["cat", "orange"], ()),
        ("a cat, oil painting, 4k", ["cat"], ()),
        ("an oil painting", ["framed picture"], ()),
        ("a jack-o'-lantern on the T-Rex’s head", ["jack-o'-lantern", "t-rex"], ("head",)),
        ("'two pairs of sunglasses on the grass'", ["sunglasses"], ()),
        ("a man o' war and a ladies' bag", ["jellyfish", "handbag"], ()),
        ("the 'fog' of the 'cats'", ["cat"], ("fog",)),
        ("a horse riding a bicycle", ["horse", "bicycle"], ("riding",)),
        ("a tea-pot on the snow", ["teapot"], ()),
        ("a lighthouse in the fog", [], ("lighthouse", "fog")),
        ("", [], ()),
    ],
)
def test_what_a_prompt_names(prompt, things, unknown):
    found = nearest(prompt)
    assert [thing.name for thing in found.things] == things
    assert found.unknown == unknown


def test_every_name_of_every_thing_is_known(world):
    for thing in world:
        for form in (form for noun in thing.names for form in (noun.one, noun.many) if form):
            found = nearest(f"a picture of {form}")
            assert thing in found.things, form
            assert not found.unknown, form


def test_the_default_mix_covers_every_kind():
    assert sum(DEFAULT_MIX.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("prompt", "known", "essence"),
    [
        ("a red apple next to a cat", "a red apple next to a cat", "a red apple and a cat"),
        ("a quaint lighthouse, two small blue cars", "two small blue cars", "two small blue cars"),
        ("a cat in the fog", "a cat", "a cat"),
        ("a lonely small lighthouse and a sleepy cat", "a sleepy cat", "cat"),
        ("the fog, a cat", "a cat", "a cat"),
        ("A weathered boat on the foggy fjord, at sunset", "A boat, at sunset", "boat"),
    ],
)
def test_what_is_left_of_a_prompt_without_what_is_unknown(prompt, known, essence):
    found = nearest(prompt)
    assert found.known == known
    assert found.essence == essence
