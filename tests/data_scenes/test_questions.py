"""Scenes that are asked about: one meaning for every expression, exact masks, nothing held out."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from tiny_photos import save_photo

from llmbind_cli.data.scenes.arrangements import (
    SPLITS,
    Arrangement,
    ArrangementSampler,
    is_held_out_thing,
    photo_of,
)
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.graph import Background, Box, PlacedThing
from llmbind_cli.data.scenes.grounds import (
    TEXTURES,
    DrawnGround,
    TexturedGround,
    is_held_out_photo,
    list_photos,
)
from llmbind_cli.data.scenes.knowledge import properties, selects
from llmbind_cli.data.scenes.pictures import ScenePicture, SceneRenderer
from llmbind_cli.data.scenes.questions import NUMBERS, QUESTIONS, SceneQuestions, describe
from llmbind_cli.data.scenes.sampling import is_held_out_pair
from llmbind_cli.data.scenes.seen import knowledge, seen_objects
from llmbind_cli.data.segmentation.expressions import KINDS, draw_expressions
from llmbind_cli.data.spellings import SEGMENT
from llmbind_cli.errors import InputDataError

SIZE = 64
MANY = 80


@pytest.fixture(scope="module")
def renderer(sprites):
    return SceneRenderer(sprites, SIZE)


def questions(world, renderer, *, split="train", seed=0, photos=(), **options):
    sampler = ArrangementSampler(world, seed, split=split, photos=photos)
    return SceneQuestions(
        sampler,
        renderer,
        name=f"scenes-{split}-{seed}",
        held_out_targets=split == "held_out_things",
        **options,
    )


def arranged(world, *placed):
    things = tuple(
        PlacedThing(
            thing=world[name],
            colour=colour,
            box=Box(x - 0.1, y - 0.1, x + 0.1, y + 0.1),
        )
        for name, colour, x, y in placed
    )
    return Arrangement(things, DrawnGround(Background(), 0.5))


def expressions(arrangement, renderer, rng, kind):
    picture = ScenePicture("x", arrangement, renderer)
    return list(
        draw_expressions(rng, seen_objects(arrangement, picture), kind, knowledge=knowledge())
    )


# An expression is read again, by words alone, and looked up in the scene.

SIDES = {
    "left": lambda box, other: box.centre[0] < other.centre[0],
    "right": lambda box, other: box.centre[0] > other.centre[0],
    "above": lambda box, other: box.centre[1] < other.centre[1],
    "below": lambda box, other: box.centre[1] > other.centre[1],
}
RELATIONS = {
    r"(?:to the |on the )?left of": "left",
    r"(?:to the |on the )?right of": "right",
    r"above|higher up than|over": "above",
    r"below|lower down than|under": "below",
}
ENDS = {
    r"leftmost|farthest to the left|most to the left": ("left", True),
    r"rightmost|farthest to the right|most to the right": ("right", True),
    r"topmost|highest|nearest to the top": ("above", True),
    r"bottommost|lowest|nearest to the bottom": ("below", True),
    r"(?:on|at|to) the left(?: side)?$": ("left", False),
    r"(?:on|at|to) the right(?: side)?$": ("right", False),
    r"(?:up )?at the top$|in the upper part$|near the top$": ("above", False),
    r"(?:down )?at the bottom$|in the lower part$|near the bottom$": ("below", False),
}
SIZES = {
    "largest|biggest|that takes up the most room": max,
    "smallest|tiniest|that takes up the least room": min,
}
MIDDLE = Box(0, 0, 1, 1)


class Reader:
    """Finds everything that words could mean, apart from the code's own way to tell."""

    def __init__(self, arrangement, world):
        self.things = arrangement.things
        self.singulars = {
            noun.many.lower(): noun.one.lower()
            for thing in world
            for noun in (*thing.names, *thing.category_words)
            if noun.many
        }

    def read(self, text):
        """Every index that a whole expression could mean."""
        rest = re.sub(r"^(?:the|all of the|all the|all|every one of the) ", "", text.lower())
        for part in (self._relation, self._end, self._size, self._known):
            found = part(rest)
            if found is not None:
                return found
        return self._named(rest)

    def _relation(self, rest):
        for pattern, side in RELATIONS.items():
            match = re.fullmatch(rf"(.+?) (?:{pattern}) the (.+)", rest)
            if match:
                (anchor,) = self.read(match[2])
                return {
                    i
                    for i in self.read(match[1]) - {anchor}
                    if SIDES[side](self.things[i].box, self.things[anchor].box)
                }
        return None

    def _end(self, rest):
        for pattern, (side, is_extreme) in ENDS.items():
            match = re.search(pattern, rest)
            if match:
                among = self.read((rest[: match.start()] + rest[match.end() :]).strip())
                if not is_extreme:
                    return {i for i in among if SIDES[side](self.things[i].box, MIDDLE)}
                boxes = {i: self.things[i].box for i in among}
                return {i for i in among if not any(SIDES[side](boxes[j], boxes[i]) for j in among)}
        return None

    def _size(self, rest):
        for pattern, choose in SIZES.items():
            if re.search(pattern, rest):
                among = self.read(re.sub(pattern, "", rest).strip())
                areas = {i: self.things[i].box.width for i in among}
                return {i for i in among if areas[i] == choose(areas.values())}
        return None

    def _known(self, rest):
        for entry in properties():
            for words in (*entry.say, *entry.deny):
                if rest.endswith(f" {words}"):
                    wanted = words not in entry.deny
                    return {i for i, p in enumerate(self.things) if entry.holds(p.thing) == wanted}
        return None

    def _named(self, rest):
        called = self._called(self.singulars.get(rest, rest))
        colour, _, noun = rest.partition(" ")
        if called or colour not in NAMES:
            return called
        return {
            i
            for i in self._called(noun)
            if colour in (self.things[i].colour, *self.things[i].thing.colours)
        }

    def _called(self, words):
        if words in ("thing", "object", "one", "item"):
            return set(range(len(self.things)))
        return {i for i, placed in enumerate(self.things) if self._could_mean(words, placed.thing)}

    def _could_mean(self, words, thing):
        nouns = [noun.one.lower() for noun in (*thing.names, *thing.category_words)]
        return any(words == noun or noun.endswith(f" {words}") for noun in nouns)


@pytest.mark.parametrize("kind", KINDS)
def test_every_expression_means_what_it_marks_and_nothing_else(world, renderer, rng, kind):
    sampler = ArrangementSampler(world, 5)
    count = 0
    for number in range(MANY):
        arrangement = sampler.draw(number)
        for expression in expressions(arrangement, renderer, rng, kind):
            meant = Reader(arrangement, world).read(expression.text)
            names = [placed.thing.name for placed in arrangement.things]
            assert meant == set(expression.targets), (expression.text, names)
            count += 1
    assert count > 40


@pytest.fixture
def rng():
    from random import Random

    return Random(3)


def texts(arrangement, renderer, rng, kind):
    return {
        e.text: e.targets for _ in range(40) for e in expressions(arrangement, renderer, rng, kind)
    }


def test_two_alike_are_told_apart_by_place_and_colour_only(world, renderer, rng):
    scene = arranged(world, ("dog", None, 0.2, 0.5), ("dog", "red", 0.8, 0.5))
    assert "the dog" not in texts(scene, renderer, rng, "refer")
    assert texts(scene, renderer, rng, "refer")["the red dog"] == (1,)
    spatial = texts(scene, renderer, rng, "spatial")
    assert spatial["the dog on the left"] == (0,)
    assert spatial["the rightmost dog"] == (1,)
    assert texts(scene, renderer, rng, "group")["all the dogs"] == (0, 1)


def test_what_might_be_meant_too_is_never_asked_for(world, renderer, rng):
    scene = arranged(world, ("dog", None, 0.2, 0.5), ("hot dog", None, 0.8, 0.5))
    assert "the dog" not in texts(scene, renderer, rng, "refer")
    near = arranged(world, ("dog", None, 0.5, 0.3), ("dog", None, 0.55, 0.7))
    assert not {"the leftmost dog", "the dog on the left"} & set(
        texts(near, renderer, rng, "spatial")
    )


def test_what_one_can_eat(world, renderer, rng):
    scene = arranged(world, ("apple", None, 0.2, 0.5), ("hammer", None, 0.8, 0.5))
    reason = texts(scene, renderer, rng, "reason")
    assert reason["the one you can eat"] == (0,)
    assert reason["the one you can't eat"] == (1,)
    two = arranged(world, ("apple", None, 0.2, 0.5), ("pizza", None, 0.8, 0.5))
    assert not any("eat" in text for text in texts(two, renderer, rng, "reason"))
    unsure = arranged(world, ("apple", None, 0.2, 0.5), ("chicken", None, 0.8, 0.5))
    assert not any("you can eat" in text for text in texts(unsure, renderer, rng, "reason"))


def test_knowledge_names_what_there_is(world):
    for entry in properties():
        assert sum(map(entry.holds, world)) >= 1, entry.name
        for words in (*entry.sure, *entry.but, *entry.maybe):
            assert any(selects(words, thing) for thing in world), (entry.name, words)
        assert all(entry.may_hold(thing) for thing in world if entry.holds(thing))


@pytest.mark.parametrize("split", SPLITS)
def test_each_row_is_the_same_again_and_has_exact_masks(world, renderer, split):
    row, again = (questions(world, renderer, split=split) for _ in range(2))
    masks = 0
    for number in range(40):
        sample, other = row[number], again[number]
        assert sample.turns == other.turns
        assert sample.pictures[0].sha256() == other.pictures[0].sha256()
        decoded = sample.decode_masks()
        assert (decoded == other.decode_masks()).all()
        assert len(decoded) == len(sample.segments)
        arrangement = sample.pictures[0].arrangement
        for mask, segment in zip(decoded, sample.segments, strict=True):
            masks += 1
            boxes = [arrangement.things[target].box for target in segment.mask.targets]
            rows, columns = np.nonzero(mask)
            assert len(rows)
            for y, x in zip(rows, columns, strict=True):
                assert any(
                    b.left * SIZE - 1 <= x <= b.right * SIZE
                    and b.top * SIZE - 1 <= y <= b.bottom * SIZE
                    for b in boxes
                )
    assert masks > 20
    assert questions(world, renderer, split=split, seed=1)[0].turns != row[0].turns


def test_training_never_sees_what_is_held_out(world, renderer):
    row = questions(world, renderer)
    for number in range(MANY):
        things = [p.thing for p in row[number].pictures[0].arrangement.things]
        assert not any(map(is_held_out_thing, things))
        pairs = itertools.combinations({t.name: t for t in things}.values(), 2)
        assert not any(is_held_out_pair(*pair) for pair in pairs)


def test_held_out_rows_ask_for_what_training_never_saw(world, renderer):
    things_row = questions(world, renderer, split="held_out_things")
    scenes_row = questions(world, renderer, split="held_out_scenes")
    for number in range(30):
        sample = things_row[number]
        arrangement = sample.pictures[0].arrangement
        for segment in sample.segments:
            assert all(is_held_out_thing(arrangement.things[i].thing) for i in segment.mask.targets)
        things = [p.thing for p in scenes_row[number].pictures[0].arrangement.things]
        assert not any(map(is_held_out_thing, things))
        assert any(is_held_out_pair(*pair) for pair in itertools.combinations(things, 2))
    held_out = sum(map(is_held_out_thing, world))
    assert 0.06 < held_out / len(world) < 0.14


def test_plain_answers_are_right(world, renderer):
    row = questions(world, renderer, questions={"count": 1, "presence": 1, "colour": 1})
    seen = Counter()
    for number in range(MANY):
        sample = row[number]
        placed = sample.pictures[0].arrangement.things
        assert not sample.segments
        assert sample.source_task == "vqa"
        for said, replied in zip(sample.turns[::2], sample.turns[1::2], strict=True):
            answer = replied.text.rstrip(".").lower()
            if answer in NUMBERS:
                seen["count"] += 1
                assert NUMBERS.index(answer) <= len(placed)
            elif answer in ("yes", "no"):
                seen[answer] += 1
                words = said.text.lower()
                named = any(
                    re.search(rf"\b{re.escape(noun.one.lower())}\b", words)
                    for thing in placed
                    for noun in (*thing.thing.names, *thing.thing.category_words)
                )
                assert named == (answer == "yes"), (said.text, [p.thing.name for p in placed])
            else:
                seen["colour"] += 1
                assert any(answer in (p.colour, *p.thing.colours) for p in placed)
    assert min(seen.values()) > 10


def test_what_is_absent_may_be_of_a_kind_with_what_is_there(world, renderer):
    """As a dog is where a cat stands; and by default it may be anything."""

    def absent(**options):
        asked = questions(world, renderer, questions={"presence": 1.0}, turns=1, **options)
        for sample in (asked[number] for number in range(MANY)):
            said, replied = (turn.text.lower() for turn in sample.turns)
            if replied == "no.":
                things = [placed.thing for placed in sample.pictures[0].arrangement.things]
                named = [
                    t for t in world if re.search(rf"\b{re.escape(t.noun.one.lower())}\b", said)
                ]
                yield max(named, key=lambda thing: len(thing.noun.one)), things

    def kin(told):
        shared = [any(set(a.category_words) & set(b.category_words) for b in t) for a, t in told]
        return sum(shared) / len(shared)

    assert kin([*absent(near=1.0)]) > 0.8  # of some things there is no other of their kind
    assert kin([*absent()]) < 0.4
    with pytest.raises(ValueError, match=r"near must be in \[0, 1\], got 2"):
        questions(world, renderer, near=2)


def test_a_thing_is_named_as_within_a_sentence(world, renderer):
    """A name has the same tokens there as after other words, which at the start it has not."""
    asked = questions(world, renderer, questions={"name": 1.0}, turns=2)
    for number in range(MANY // 4):
        sample = asked[number]
        names = {placed.thing.noun.one for placed in sample.pictures[0].arrangement.things}
        for answer in sample.turns[1::2]:
            assert answer.text.removeprefix("The ").removesuffix(".") in names


def test_what_a_use_tells_is_not_asked_for_as_a_place(world, renderer):
    asked = questions(world, renderer, questions={"name": 1.0}, turns=4)
    prompts = [turn.text.lower() for n in range(MANY // 4) for turn in asked[n].turns[::2]]
    uses = [prompt for prompt in prompts if "the thing " in prompt]
    assert uses
    assert not [prompt for prompt in uses if "see the thing" in prompt or "stands the" in prompt]


def test_shares_of_questions_and_masks(world, renderer):
    row = questions(world, renderer)
    samples = [row[number] for number in range(250)]
    replies = [turn.text for sample in samples for turn in sample.turns[1::2]]
    masked = sum(SEGMENT in text for text in replies) / len(replies)
    expected = sum(QUESTIONS[kind] for kind in KINDS)
    # A scene that does not suit a further question leaves it out, so the shares move a little.
    assert abs(masked - expected) < 0.08
    assert {sample.source_task for sample in samples} == {"refer", "reason", "vqa"}
    for text in [turn.text for sample in samples for turn in sample.turns]:
        assert not re.search(r"[\[\]{}|\x01]|  | ,|^\s|\s$|\.\.", text), text


def test_captions_name_everything(world):
    scene = arranged(
        world, ("apple", "red", 0.8, 0.5), ("dog", None, 0.2, 0.2), ("dog", None, 0.4, 0.8)
    )
    assert describe(scene) == "two dogs and a red apple"


def test_questions_that_no_scene_suits_are_refused(world, renderer):
    with pytest.raises(ValueError, match="known kinds"):
        questions(world, renderer, questions={"taste": 1})
    with pytest.raises(ValueError, match="turns must be ≥ 1"):
        questions(world, renderer, turns=0)


def test_photos_behind_things_are_split_as_well(world, renderer, tmp_path):
    for number in range(40):
        save_photo(tmp_path / f"{number}.jpg", seed=number, size=(70, 90))
    save_photo(tmp_path / "small.jpg", size=(20, 20))
    (tmp_path / "notes.txt").write_text("no photo")
    photos = list_photos(tmp_path)
    assert len(photos) == 40
    for split in ("train", "held_out_scenes"):
        sampler = ArrangementSampler(world, 0, split=split, photos=photos, grounds={"photo": 1})
        used = {photo_of(sampler.draw(number)) for number in range(30)}
        assert {is_held_out_photo(path) for path in used} == {split != "train"}
    picture = ScenePicture("x", sampler.draw(0), renderer)
    assert picture.load().size == (SIZE, SIZE)
    with pytest.raises(InputDataError, match="no such folder of photos"):
        list_photos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="grounds must have shares"):
        ArrangementSampler(world, 0, grounds={"photo": 1})


@pytest.mark.parametrize("kind", TEXTURES)
def test_textures_fill_the_picture_the_same_way_each_time(kind):
    drawn = TexturedGround(kind, 7).draw(SIZE)
    assert drawn.shape == (SIZE, SIZE, 3)
    assert drawn.min() >= 0
    assert drawn.max() <= 255
    assert (drawn == TexturedGround(kind, 7).draw(SIZE)).all()
    assert drawn.std() > 1
