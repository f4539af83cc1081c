"""Guesses are what followed the longest of the last ids where they stood before."""

from __future__ import annotations

import pytest

from llmbind_cli.model.prompt_lookup import guess_next


@pytest.mark.parametrize(
    ("context", "guessed"),
    [
        ([1, 2, 3, 4, 1], [2, 3, 4]),
        ([1, 2, 3, 1, 9, 8, 1], [9, 8, 1]),  # of two places the later one
        ([5, 1, 2, 7, 6, 1, 3, 5, 1], [2, 7, 6]),  # of two places the one that is alike for longer
        ([4, 4, 4, 4], [4]),  # what follows three of them is the last one
        ([1, 2, 3], []),
        ([], []),
        ([3], []),
    ],
)
def test_what_followed_is_guessed(context, guessed):
    assert guess_next(context, 3) == guessed


def test_no_more_is_guessed_than_asked_for():
    assert guess_next([1, 2, 3, 4, 1], 2) == [2, 3]
    assert guess_next([1, 2, 3, 4, 1], 0) == []


def test_places_of_pictures_are_never_guessed():
    assert guess_next([1, 2, -1, -2, 1], 4) == [2]
    assert guess_next([-1, 2, -1], 4) == []
