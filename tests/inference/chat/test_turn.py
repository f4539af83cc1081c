"""What one message leads to: calls run in order, and each edit starts from the right picture."""

from __future__ import annotations

import json

import pytest
from painters import Musician, Painter, Shelf, all_generators, colour_of
from PIL import Image

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, ModelNotFoundError, PartialFailure, UsageError
from llmbind_cli.inference.chat.session import Session
from llmbind_cli.inference.chat.turn import Turn


@pytest.fixture
def new_turn(bound, tmp_path):
    """Makes the turns of a new session, with given generators."""

    def make(generators=None):
        session = Session(bound, max_new_tokens=16, temperature=0.0, seed=0)
        made = []
        turn = Turn(
            session,
            generators or all_generators(),
            out=tmp_path / "out",
            seed=0,
            on_file=made.append,
        )
        return turn, made

    return make


def say(turn, *messages):
    for message in messages:
        turn.run(message, stream=False)


def edited(source, entry):
    """The colour that the editor gives a picture of one colour."""
    return tuple(
        (a + b) % 256
        for a, b in zip(pixel(source.path), colour_of(entry.prompt, entry.seed), strict=True)
    )


def pixel(path):
    with Image.open(path) as picture:
        return picture.convert("RGB").getpixel((0, 0))


def test_two_calls_run_in_order_and_the_second_edits_what_the_first_made(new_turn, replies):
    replies["cat"] = "<gen>a cat</gen> and <edit>add a hat</edit>"
    turn, made = new_turn()
    say(turn, "a cat with a hat")
    assert [(entry.task, entry.source) for entry in made] == [("image", None), ("edit", 1)]
    assert pixel(made[1].path) == edited(made[0], made[1])


def test_an_edit_takes_the_picture_in_hand(new_turn, replies):
    replies |= {"cat": "<gen>a cat</gen>", "dog": "<gen>a dog</gen>", "red": "<edit>red</edit>"}
    turn, made = new_turn()
    say(turn, "cat", "dog", "red")
    assert made[2].source == 2
    turn.session.use(1)
    say(turn, "red again")
    assert made[3].source == 1
    assert pixel(made[3].path) == edited(made[0], made[3])


def test_an_edit_takes_the_picture_that_the_message_names(new_turn, replies):
    replies |= {
        "frame": "<edit>red</edit> <edit>blue</edit> <edit>a frame</edit>",
        "cat": "<gen>a cat</gen>",
        "dog": "<gen>a dog</gen>",
        "red": "<edit>red</edit>",
    }
    turn, made = new_turn()
    say(turn, "cat", "dog", "make the first one red")
    assert made[2].source == 1
    say(turn, "make #2 red and #1 blue, and then frame that")
    assert [entry.source for entry in made[3:]] == [2, 1, 5]


def test_a_message_that_names_a_picture_but_makes_a_new_one_edits_nothing(new_turn, replies):
    replies |= {"cat": "<gen>a cat</gen>"}
    turn, made = new_turn()
    say(turn, "a cat like the seventh picture")
    assert made[0].source is None


def test_an_attached_picture_is_edited(new_turn, replies, tmp_path):
    replies |= {"cat": "<gen>a cat</gen>", "red": "<edit>red</edit>"}
    Image.new("RGB", (5, 4), "teal").save(tmp_path / "photo.png")
    turn, made = new_turn()
    say(turn, "cat")
    turn.session.attach(tmp_path / "photo.png")
    say(turn, "red")
    assert made[1].source == 2
    with Image.open(made[1].path) as picture:
        assert picture.size == (5, 4)


def test_an_edit_without_a_picture(new_turn, replies, tmp_path):
    replies["red"] = "<edit>make it red</edit>"
    turn, made = new_turn()
    with pytest.raises(UsageError, match="no picture: attach one with --image FILE"):
        say(turn, "red")
    assert made == []
    assert turn.session.num_turns == 1
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_not_there_is_said_with_the_user_s_words(new_turn, replies):
    replies |= {"cat": "<gen>a cat</gen>", "red": "<edit>red</edit>"}
    turn, _ = new_turn()
    say(turn, "cat")
    with pytest.raises(UsageError, match="'the third picture': the conversation has only one"):
        say(turn, "make the third picture red")


def test_a_failed_call_does_not_stop_the_others(new_turn, replies, capsys):
    replies["both"] = "<vid_cap>a cat</vid_cap> <gen>a cat</gen> <gen>nothing</gen>"
    turn, made = new_turn()
    with pytest.raises(PartialFailure, match="2 of the 3 calls of this reply failed: no video"):
        say(turn, "both")
    assert [entry.task for entry in made] == ["image"]


def test_a_reply_whose_only_call_fails_keeps_that_call_s_error(new_turn, replies):
    replies |= {"none": "<gen>nothing</gen>", "film": "<vid_cap>a cat</vid_cap>"}
    turn, _ = new_turn()
    with pytest.raises(InputDataError, match="cannot be painted"):
        say(turn, "none")
    with pytest.raises(ModelNotFoundError, match="no video generator"):
        say(turn, "film")


def test_an_edit_of_what_was_not_made_touches_no_other_picture(new_turn, replies):
    replies |= {"dog": "<gen>a dog</gen>", "both": "<gen>nothing</gen> <edit>red</edit>"}
    turn, made = new_turn()
    say(turn, "dog")
    with pytest.raises(InputDataError, match="cannot be painted"):
        say(turn, "both")
    assert len(made) == 1


def test_a_sound_is_no_picture_to_edit(new_turn, replies):
    replies["hum"] = "<aud_cap>a hum</aud_cap> <edit>red</edit>"
    turn, made = new_turn()
    with pytest.raises(PartialFailure, match="no picture"):
        say(turn, "hum")
    assert [entry.task for entry in made] == ["audio"]


def test_json_lines_tell_of_each_call(new_turn, replies, capsys):
    replies["both"] = "Here: <gen>a cat</gen> <vid_cap>a cat</vid_cap>"
    turn, _ = new_turn(Shelf(Painter(), Musician()))
    console.configure(json=True)
    with pytest.raises(PartialFailure):
        say(turn, "both")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["task"], line["status"]) for line in lines] == [
        ("image", "ok"), ("video", "failed"),
    ]  # fmt: skip
    assert lines[1]["error"]["code"] == 10
    assert {line["reply"] for line in lines} == {"Here: <gen>a cat</gen> <vid_cap>a cat</vid_cap>"}


def test_what_was_made_before_a_stop_is_kept(new_turn, replies, monkeypatch):
    class Stopped(Painter):
        def paint(self, request):
            if request.prompt == "a dog":
                raise KeyboardInterrupt
            return super().paint(request)

    replies["both"] = "<gen>a cat</gen> <gen>a dog</gen>"
    turn, made = new_turn(Shelf(Stopped()))
    with pytest.raises(KeyboardInterrupt):
        say(turn, "both")
    assert [entry.prompt for entry in made] == ["a cat"]
    assert turn.session.num_turns == 1
