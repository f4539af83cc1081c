"""Which pictures a message names."""

from __future__ import annotations

import pytest

from llmbind_cli.inference.chat.picture_references import PictureReference, picture_references


def named(text: str) -> list[tuple[int | None, int | None]]:
    return [(found.number, found.ordinal) for found in picture_references(text)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("make #3 darker", 3),
        ("make # 12 darker", 12),
        ("in picture 2, add a hat", 2),
        ("use image number 4", 4),
        ("Photo #5 please", 5),
        ("picture no. 7 at night", 7),
    ],
)
def test_numbers(text, number):
    assert named(text) == [(number, None)]


@pytest.mark.parametrize(
    ("text", "ordinal"),
    [
        ("make the second one red", 2),
        ("turn the 3rd picture into a sketch", 3),
        ("The First Image, but at night", 1),
        ("add snow to my second photo", 2),
        ("the very first one was best; make it warmer", 1),
        ("brighten the last picture", -1),
        ("the latest one, with a hat", -1),
        ("make the tenth drawing blue", 10),
    ],
)
def test_places(text, ordinal):
    assert named(text) == [(None, ordinal)]


@pytest.mark.parametrize(
    "text",
    [
        "make it red",
        "add a second one beside it",
        "paint the second one from the left red",
        "make the first one on the shelf blue",
        "give the second one with the bow a hat",
        "the third one of these apples should be green",
        "make the sky #336699",
        "use colour #fa3",
        "write “#7” on the shirt",
        'write "the second picture" below it',
        "write 'picture 2' below",
        "scale the picture 50% up",
        "another one please",
        "it's the cat's second life",
        "&#35;",
    ],
)
def test_words_that_name_no_picture(text):
    assert named(text) == []


def test_several_in_the_order_of_the_words():
    text = "make the second one red and the first picture blue, then #3 green"
    assert named(text) == [(None, 2), (None, 1), (3, None)]


def test_only_plain_names_are_certain():
    certain = {r.words: r.certain for r in picture_references(
        "#2, #333, the third one, the third picture"
    )}  # fmt: skip
    assert certain == {
        "#2": True, "#333": False, "the third one": False, "the third picture": True,
    }  # fmt: skip


def test_a_reference_keeps_the_words():
    assert picture_references("make the  second\none red") == [
        PictureReference(words="the second one", ordinal=2, certain=False)
    ]
