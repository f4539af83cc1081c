"""The loop of ``chat`` on a terminal."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from painters import Painter, Shelf, all_generators
from PIL import Image

from llmbind_cli.inference.chat.journal import read_journal
from llmbind_cli.inference.chat.repl import Repl, show_numbered
from llmbind_cli.inference.chat.session import Session
from llmbind_cli.inference.chat.turn import Turn
from llmbind_cli.inference.terminal.preview import Preview


@pytest.fixture
def new_repl(bound, tmp_path):
    """Makes a loop with given generators."""
    with ExitStack() as resources:

        def make(generators=None, wanted=False):
            session = Session(bound, max_new_tokens=16, temperature=0.0, seed=0)
            turn = Turn(
                session,
                generators or all_generators(),
                out=tmp_path / "out",
                seed=0,
                on_file=show_numbered,
            )
            return Repl(turn, preview=Preview.on_stdout(wanted), resources=resources)

        yield make


@pytest.fixture
def repl(new_repl):
    return new_repl()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "my photo.png"
    Image.new("RGB", (4, 2), "teal").save(path)
    return path


@pytest.fixture
def type_in(monkeypatch):
    """Lets a person type lines and then end the input."""

    def answer(*lines):
        waiting = iter(lines)

        def read(_prompt=""):
            line = next(waiting, None)
            if line is None:
                raise EOFError
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)

    return answer


def test_the_loop_answers_until_end_of_file(repl, replies, type_in, capsys):
    replies["rain"] = "Clouds cool."
    type_in("why rain?", "", "/quit", "never read")
    repl.run()
    assert capsys.readouterr().out == "Clouds cool.\n"


def test_files_made_are_numbered(repl, replies, type_in, capsys, tmp_path):
    replies |= {"cat": "<gen>a cat</gen>", "red": "<edit>red</edit>"}
    type_in("cat", "make it red")
    repl.run()
    out = tmp_path / "out"
    assert capsys.readouterr().out == (
        f"[image: a cat]\n#1 {out}/turn-1-image-0.png\n[edit: red]\n#2 {out}/turn-2-edit-0.png\n\n"
    )


def test_a_call_without_generator_does_not_end_the_loop(new_repl, replies, type_in, capsys):
    replies |= {"cat": "<gen>a cat</gen>", "rain": "Clouds cool."}
    type_in("cat", "rain")
    new_repl(Shelf()).run()
    captured = capsys.readouterr()
    assert captured.out == "[image: a cat]\nClouds cool.\n\n"
    assert "no image generator" in captured.err


def test_the_list_shows_numbers_origin_and_the_picture_in_hand(
    repl, replies, type_in, capsys, picture, tmp_path
):
    replies |= {"cat": "<gen>a cat</gen>", "red": "<edit>red</edit>"}
    type_in("/list", f"/image {picture}", "a cat", "make #1 red", "/use 2", "/list")
    repl.run()
    captured = capsys.readouterr()
    assert "no files yet" in captured.err
    assert "the next edit acts on #2" in captured.err
    listed = [line for line in captured.out.splitlines() if " #" in line[:3]]
    assert [line.split()[:3] for line in listed] == [
        ["#1", "attached", str(tmp_path / "my")],
        ["*", "#2", "image"],
        ["#3", "edit", "of"],
    ]
    assert listed[2].split()[3:5] == ["#1", "red"]


def test_a_long_prompt_is_cut_in_the_list_only(repl, replies, type_in, capsys):
    replies["cat"] = f"<gen>{'a very ' * 20}big cat</gen>"
    type_in("cat", "/list")
    repl.run()
    listed = capsys.readouterr().out.splitlines()[-2]
    assert "a very a ver… " in listed


def test_open_names_the_file_and_shows_it(new_repl, replies, type_in, capsys, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    type_in("cat", "/open 1", "/open #1", "/open", "/open 2")
    new_repl(wanted=True).run()
    captured = capsys.readouterr()
    assert captured.out.count(f"{tmp_path}/out/turn-1-image-0.png\n") == 3
    assert "▀" in captured.out
    assert "/open needs a number" in captured.err
    assert "there is no #2: the conversation has only #1" in captured.err


def test_the_commands_of_the_loop(repl, replies, type_in, capsys, tmp_path, picture):
    saved = tmp_path / "talk.jsonl"
    type_in(
        "/help", f"/image {picture}", "hi", f"/save {saved}", "/reset",
        f"/save {tmp_path}/empty.jsonl", "/image nowhere.png", f"/image {'a' * 300}",
        "/dance", "/lsit", "/save",
        "/use x", "/session",
    )  # fmt: skip
    repl.run()
    errors = capsys.readouterr().err
    for expected in (
        "/reset          forget", "attached my photo.png as #1", "nowhere.png: no such file",
        "aaa: cannot be used as a file name",
        "no command /dance; /help lists them", "no command /lsit; did you mean /list?",
        "/save needs a file name", "/use needs a number", "kept nowhere", "a new conversation",
    ):  # fmt: skip
        assert expected in errors
    assert len(json.loads(saved.read_text())["conversations"]) == 2
    assert json.loads((tmp_path / "empty.jsonl").read_text())["conversations"] == []


@pytest.mark.parametrize("name", ["~no-such-user/x.png", "x" * 300])
def test_a_name_that_no_file_can_have_does_not_end_the_loop(repl, replies, type_in, capsys, name):
    replies["rain"] = "Clouds cool."
    type_in(f"/image {name}", f"/save {name}", f"/session {name}", "rain")
    repl.run()
    captured = capsys.readouterr()
    assert captured.out == "Clouds cool.\n\n"
    assert captured.err.count(f"{name}: cannot be used as a file name: ") == 3


@pytest.mark.parametrize("spelling", ["'{}'", '"{}"', "{}"])
def test_a_file_name_may_be_pasted_in_quotation_marks(repl, type_in, capsys, picture, spelling):
    type_in(f"/image {spelling.format(picture)}")
    repl.run()
    assert "attached my photo.png" in capsys.readouterr().err


def test_a_file_name_may_be_pasted_with_escaped_spaces(repl, type_in, capsys, picture):
    type_in("/image " + str(picture).replace(" ", "\\ "))
    repl.run()
    assert "attached my photo.png" in capsys.readouterr().err


def test_a_conversation_can_be_kept_from_its_middle_on(repl, replies, type_in, capsys, tmp_path):
    replies |= {"cat": "<gen>a cat</gen>"}
    file = tmp_path / "session.jsonl"
    type_in("cat", f"/session {file}", "/session", f"/session {file}2", "cat")
    repl.run()
    errors = capsys.readouterr().err
    assert errors.count(f"kept in {file}") == 3
    assert [event.turn for event in read_journal(file)] == [1, 2]


def test_a_refused_session_file_is_free_again(repl, replies, type_in, capsys, tmp_path):
    (tmp_path / "notes").write_text("my notes\n")
    file = tmp_path / "session.jsonl"
    type_in("hi", f"/session {tmp_path}/notes", f"/session {file}")
    repl.run()
    assert "is no JSON" in capsys.readouterr().err
    assert len(read_journal(file)) == 1


def test_ctrl_c_stops_the_reply_not_the_program(repl, replies, type_in, monkeypatch, capsys):
    replies["rain"] = "Clouds cool."
    session = repl._turn.session
    ask = session.ask

    def interrupted(prompt, **options):
        if prompt == "long":
            raise KeyboardInterrupt
        return ask(prompt, **options)

    monkeypatch.setattr(session, "ask", interrupted)
    type_in("long", KeyboardInterrupt(), "rain")
    repl.run()
    captured = capsys.readouterr()
    assert "Clouds cool." in captured.out
    assert "stopped; the exchange is left out" in captured.err
    assert session.num_turns == 1


def test_ctrl_c_while_a_picture_is_made_keeps_the_exchange(new_repl, replies, type_in, capsys):
    class Slow(Painter):
        def paint(self, request):
            raise KeyboardInterrupt

    replies["cat"] = "<gen>a cat</gen>"
    repl = new_repl(Shelf(Slow()))
    type_in("cat")
    repl.run()
    assert "stopped; what was not made yet is left out" in capsys.readouterr().err
    assert repl._turn.session.num_turns == 1
