"""The routing score by hand."""

from __future__ import annotations

import json

import pytest
from PIL import Image


def line(request_id, task, prompt="", status="ok"):
    return {"id": request_id, "task": task, "prompt": prompt, "status": status}


REQUESTS = [
    {"id": "1", "task": "image", "keep": ["red", "foxes"]},
    {"id": "2", "task": "image", "keep": ["cat"]},
    {"id": "3", "task": "text", "keep": []},
    {"id": "4", "task": "text", "keep": []},
    {"id": "5", "task": "audio", "keep": ["rain", "slow-motion"]},
    {"id": "6", "task": "video", "keep": ["wave"]},
]
LINES = [
    line("1", "image", "A RED fox"),
    line("2", "image", "a cat"), line("2", "audio", "meow"),
    line("3", "text"),
    line("4", "video", "a wave"),
    line("5", "audio", "rain in slow motion"),
    line("6", "video", "", status="failed"),
]  # fmt: skip


def test_score_equals_the_count_by_hand(routing):
    result = routing.score(REQUESTS, LINES)
    assert result.accuracy == 3 / 6
    assert result.wrong == ["2", "4", "6"]
    assert result.false_calls == 1 / 2
    assert result.words_kept == 4 / 4
    assert result.prompts_whole == 1.0
    assert result.confusion["image", "image+audio"] == 1
    assert result.confusion["video", "error"] == 1


def test_a_word_that_is_missing_is_not_kept(routing):
    lines = [line("1", "image", "a fox"), *LINES[1:]]
    assert routing.score(REQUESTS, lines).words_kept == 3 / 4


def test_a_request_without_a_plan_is_an_error(routing):
    with pytest.raises(KeyError):
        routing.score(REQUESTS, LINES[:-1])


def test_several_calls_are_expected_in_their_order(routing):
    requests = [
        {"id": "1", "tasks": ["image", "audio"], "keep": [["fox"], ["bark"]]},
        {"id": "2", "tasks": ["image", "audio"], "keep": [["fox"], ["bark"]]},
        {"id": "3", "tasks": [], "keep": []},
        {"id": "4", "tasks": [], "keep": []},
    ]
    lines = [
        line("1", "image", "a fox"), line("1", "audio", "silence"),
        line("2", "audio", "barking"), line("2", "image", "a fox"),
        line("3", "text"),
        line("4", "edit", "darker"),
    ]  # fmt: skip
    result = routing.score(requests, lines)
    assert result.wrong == ["2", "4"]
    assert (result.words_kept, result.prompts_whole) == (1 / 2, 1 / 2)
    assert result.false_calls == 1 / 2
    assert "image+audio" in routing.show(result)


def test_a_picture_stands_in_for_one_that_is_not_there(routing, tmp_path):
    there = tmp_path / "there.png"
    Image.new("RGB", (8, 8)).save(there)
    asked = tmp_path / "asked.jsonl"
    rows = [
        {"id": "a", "prompt": "x", "image": "gone.jpg"},
        {"id": "b", "prompt": "y", "image": str(there)},
        {"id": "c", "prompt": "z"},
    ]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "out"
    folder.mkdir()
    written = routing.with_pictures(asked, folder).read_text().splitlines()
    drawn, kept, none = (json.loads(line) for line in written)
    with Image.open(drawn["image"]) as picture:
        assert picture.mode == "RGB"
    assert kept == rows[1]
    assert none == rows[2]
