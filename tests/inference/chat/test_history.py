"""The numbered files of a conversation, and the picture in hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbind_cli.errors import UsageError
from llmbind_cli.inference.chat.history import ATTACHED, History, HistoryEntry


def entry(number: int, task: str = "image", media_type: str = "image/png") -> HistoryEntry:
    return HistoryEntry(
        number=number,
        turn=number,
        task=task,
        prompt="",
        path=Path(f"{number}.png"),
        sha256="0" * 64,
        media_type=media_type,
    )


@pytest.fixture
def history() -> History:
    """#1 attached, #2 a sound, #3 made, #4 a clip as GIF, #5 made."""
    history = History()
    history.add(entry(1, ATTACHED, "image/jpeg"))
    history.add(entry(2, "audio", "audio/wav"))
    history.add(entry(3))
    history.add(entry(4, "video", "image/gif"))
    history.add(entry(5, "edit"))
    return history


def numbers(history: History, text: str) -> list[int]:
    return [found.number for found in history.named(text)]


def test_the_last_picture_is_in_hand_until_one_is_chosen(history):
    assert history.in_hand.number == 5
    history.use(3)
    assert history.in_hand.number == 3
    history.add(entry(6, "audio", "audio/wav"))
    assert history.in_hand.number == 3
    history.add(entry(7))
    assert history.in_hand.number == 7


def test_an_empty_history_has_no_picture_in_hand(history):
    history.clear()
    assert history.in_hand is None
    assert history.next_number == 1


def test_numbers_count_files_and_places_count_pictures(history):
    assert numbers(history, "make #3 red") == [3]
    assert numbers(history, "make the third picture red") == [5]
    assert numbers(history, "make the second one red") == [3]
    assert numbers(history, "make the last one red") == [5]


def test_a_picture_named_twice_counts_once(history):
    assert numbers(history, "make the first one red, then #1 blue") == [1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("make #9 red", "there is no #9: the conversation has only #1 to #5"),
        ("make #2 red", "'#2' is no picture but audio/wav"),
        ("make the fourth picture red", "the conversation has only 3 pictures"),
        ("make #0 red", "there is no #0"),
    ],
)
def test_a_picture_that_is_not_there_is_refused(history, text, reason):
    with pytest.raises(UsageError, match=reason):
        history.named(text)


def test_what_may_mean_something_else_falls_back_to_the_picture_in_hand(history):
    assert numbers(history, "paint the seventh one red") == []
    assert numbers(history, "make the sky #333") == []


def test_without_any_picture_nothing_is_named():
    assert History().named("make #3 red") == []


@pytest.mark.parametrize("number", [0, 6])
def test_choosing_a_number_that_is_not_there(history, number):
    with pytest.raises(UsageError, match=f"no #{number}"):
        history.use(number)


def test_choosing_a_clip_is_refused(history):
    with pytest.raises(UsageError, match="#4 is no picture but image/gif"):
        history.use(4)


def test_numbers_have_no_gaps(history):
    with pytest.raises(ValueError, match="number must be 6, got 8"):
        history.add(entry(8))
