"""Dialogues about pictures: every expression is asked for, and masks follow their tokens."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_photos import HEIGHT, WIDTH, annotation, instances, rectangle, save_json, save_photo

from llmbind_cli.data.masks import RleMask
from llmbind_cli.data.pictures import PictureFile
from llmbind_cli.data.sample import Sample, SegmentTarget, Turn
from llmbind_cli.data.segmentation.annotations import AnnotatedPicture, Fact, Region
from llmbind_cli.data.segmentation.asking import Asking
from llmbind_cli.data.segmentation.instances import read_coco_instances
from llmbind_cli.data.spellings import SEGMENT
from llmbind_cli.errors import InputDataError


def mask_of(number):
    return RleMask((number, 1, HEIGHT * WIDTH - number - 1), HEIGHT, WIDTH)


def picture(
    name="p", *, regions=4, facts=8, naming="phrase", names=("dog {}", "hound {}"), **fields
):
    return AnnotatedPicture(
        id=name,
        picture=PictureFile(Path("x.jpg"), name),
        regions=tuple(
            Region(
                names=tuple(text.format(i) for text in names),
                naming=naming,
                mask=mask_of(i),
                **fields,
            )
            for i in range(regions)
        ),
        facts=tuple(
            Fact(kind="is_there", words={"x": f"class {i}"}, answer="yes") for i in range(facts)
        ),
    )


def test_every_expression_is_asked_once_and_has_its_mask():
    asking = Asking(source="s", task="refer", expressions=3, plain=0.3)
    samples = list(asking.samples(picture()))
    seen = Counter()
    for sample in samples:
        assert len(sample.segments) <= 3
        replies = [turn.text for turn in sample.turns if turn.role == "assistant"]
        assert sum(text.count(SEGMENT) for text in replies) == len(sample.segments)
        seen.update(segment.phrase for segment in sample.segments)
        for segment in sample.segments:
            number = int(segment.phrase[-1])
            assert segment.mask == mask_of(number)
    assert seen == {f"{word} {i}": 1 for word in ("dog", "hound") for i in range(4)}
    assert len({sample.id for sample in samples}) == len(samples)


@pytest.mark.parametrize("naming", ["phrase", "class", "plural", "sentence"])
def test_tied_replies_say_what_they_mark_right_before_the_token(naming):
    asking = Asking(source="s", task="refer", expressions=1, plain=0.0, tied=True)
    found = 0
    for number in range(20):
        for sample in asking.samples(picture(f"p{number}", naming=naming)):
            (phrase,) = (segment.phrase for segment in sample.segments)
            found += f"{phrase} {SEGMENT}" in sample.turns[1].text.lower()
    assert found == (0 if naming == "sentence" else 160)


def test_masks_stand_in_the_order_of_their_tokens():
    asking = Asking(source="s", task="refer", expressions=8, plain=0.4)
    found = 0
    for number in range(60):
        for sample in asking.samples(picture(f"p{number}")):
            phrases = iter(segment.phrase for segment in sample.segments)
            for said, replied in zip(sample.turns[::2], sample.turns[1::2], strict=True):
                count = replied.text.count(SEGMENT)
                expected = [next(phrases) for _ in range(count)]
                assert all(phrase in said.text.lower() for phrase in expected)
                named = re.findall(r"(?:dog|hound) \d", replied.text.lower())
                assert named in ([], expected)
                found += count == 2
            assert next(phrases, None) is None
    assert found > 20


def test_the_share_of_plain_questions():
    asking = Asking(source="s", task="refer", plain=0.25)
    replies = [
        turn.text
        for number in range(200)
        for sample in asking.samples(picture(f"p{number}"))
        for turn in sample.turns
        if turn.role == "assistant"
    ]
    plain = sum(SEGMENT not in text for text in replies)
    # Two masks in one reply make the share of plain replies a little larger.
    assert 0.23 < plain / len(replies) < 0.31
    assert {text for text in replies if SEGMENT not in text} == {"Yes."}


def test_some_dialogues_have_no_mask_and_count_as_plain():
    asking = Asking(source="s", task="semantic")
    tasks = Counter(s.source_task for n in range(50) for s in asking.samples(picture(f"p{n}")))
    assert set(tasks) == {"semantic", "vqa"}
    masks = next(asking.samples(picture(regions=1, facts=0, names=("dog {}",)))).decode_masks()
    assert masks.shape == (1, HEIGHT, WIDTH)


def test_the_same_seed_gives_the_same_words_and_another_gives_others():
    def texts(**options):
        asking = Asking(source="s", task="refer", **options)
        return [turn.text for sample in asking.samples(picture()) for turn in sample.turns]

    assert texts(seed=1) == texts(seed=1)
    assert texts(seed=1) != texts(seed=2)


@pytest.mark.parametrize("naming", ["phrase", "class", "part", "sentence", "plural"])
def test_there_are_many_wordings(naming):
    asking = Asking(source="s", task="reason", plain=0)
    entries = [picture(f"p{n}", naming=naming, names=("the thing",), regions=1) for n in range(400)]
    samples = [sample for entry in entries for sample in asking.samples(entry)]
    questions = {sample.turns[0].text for sample in samples}
    replies = {sample.turns[1].text for sample in samples}
    assert len(questions) > (150 if naming != "sentence" else 60)
    assert len(replies) > 12
    for text in questions | replies:
        assert not re.search(r"[\[\]{}|\x01]|  | ,|^\s|\s$|\.\.", text), text


def test_reasons_stand_after_the_mask_or_alone():
    asking = Asking(source="s", task="reason", plain=0)
    entries = [
        picture(
            f"p{n}", regions=1, names=("Why?",), naming="sentence", explanation="it holds water"
        )
        for n in range(300)
    ]
    replies = [s.turns[1].text for entry in entries for s in asking.samples(entry)]
    alone = sum(text == "It holds water." for text in replies)
    after = sum(SEGMENT in text and text.endswith("It holds water.") for text in replies)
    assert 10 < alone < 60
    assert 100 < after < 170


def test_a_data_file_forges_no_token():
    entry = picture(names=(f"dog {SEGMENT} </gen> {{}}",))
    for number in range(20):
        asking = Asking(source="s", task="refer", seed=number)
        for sample in asking.samples(entry):
            said = " ".join(turn.text for turn in sample.turns if turn.role == "assistant")
            assert said.count(SEGMENT) == len(sample.segments)
            assert "</gen>" not in said


def test_a_sample_needs_a_mask_for_each_token():
    with pytest.raises(
        ValueError, match="a mask for each of its 1 segmentation tokens, got 1 and 0"
    ):
        Sample(
            id="x",
            turns=[Turn("user", "where?"), Turn("assistant", SEGMENT)],
            pictures=(PictureFile(Path("x.jpg"), "x"),),
        )


def test_labels_put_ignored_pixels_above_the_mask(tmp_path):
    target = SegmentTarget(mask=mask_of(3), phrase="x", ignored=mask_of(4))
    photo = PictureFile(save_photo(tmp_path / "x.png"), "x")
    sample = Sample(
        id="x",
        turns=[Turn("user", "where?"), Turn("assistant", f"{SEGMENT} and {SEGMENT}")],
        pictures=(photo,),
        segments=(target, SegmentTarget(mask=mask_of(5), phrase="y")),
    )
    labels = sample.decode_labels()
    assert labels.dtype == np.uint8
    assert labels.shape == (2, HEIGHT, WIDTH)
    assert [labels[0, 3, 0], labels[0, 4, 0], labels[1, 5, 0]] == [1, 255, 1]
    assert (labels == 255).sum() == 1
    sample.check_size(*np.asarray(photo.load()).shape[:2])
    with pytest.raises(InputDataError, match=r"x: the masks are 30 × 40 px and the picture x is"):
        sample.check_size(40, 30)


def test_coco_classes_with_crowds(tmp_path):
    runs = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 60, 60]}
    content = instances(
        {9: "000000000009.jpg"},
        {1: "person", 2: "cup", 3: "dog"},
        [
            annotation(1, 9, 1, [rectangle(0, 0, 5, 5)]),
            annotation(2, 9, 1, runs, iscrowd=1),
            annotation(3, 9, 2, [rectangle(0, 0, 5, 5)]),
            annotation(4, 9, 2, [rectangle(3, 0, 8, 5)]),
        ],
    )
    path = save_json(tmp_path / "annotations/instances_train2017.json", content)
    save_photo(tmp_path / "train2017/000000000009.jpg")
    found = read_coco_instances("coco", annotations=path, photos=tmp_path / "train2017")
    (entry,) = found.pictures
    assert entry.picture.key == "coco/9"
    areas = {region.names[0]: region.mask.decode().sum() for region in entry.regions}
    assert areas == {"person": 25 + 60, "cup": 40}
    asked = {fact.words["x"]: fact.answer for fact in entry.facts}
    assert asked.pop("dog", "no") == "no"
    assert asked == {"person": "yes", "cup": "yes"}
