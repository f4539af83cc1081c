"""``chat``: one turn, a conversation with memory, and the loop on a terminal."""

from __future__ import annotations

import json

import pytest
from tiny_pipeline import save_pipeline

from llmbind_cli.app import main
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.chat import Repl, Turn
from llmbind_cli.inference.session import Session
from llmbind_cli.tokens import ReplyError


@pytest.fixture
def session(bound):
    return Session(bound, max_new_tokens=16, temperature=0.0, seed=0)


@pytest.fixture
def repl(session, tmp_path):
    return Repl(Turn(session, GeneratorRegistry(), out=tmp_path / "out", seed=0))


def type_in(monkeypatch, *lines):
    """Let a person type the lines and then end the input."""
    waiting = iter(lines)

    def read(_prompt=""):
        line = next(waiting, None)
        if line is None:
            raise EOFError
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)


def spoken(session, tmp_path):
    session.save(tmp_path / "talk.jsonl")
    return json.loads((tmp_path / "talk.jsonl").read_text())["conversations"]


def test_one_turn_prints_the_reply(bundle, replies, capsys):
    replies["rain"] = "Clouds cool."
    assert main(["chat", "--model", str(bundle), "why rain?"]) == 0
    assert capsys.readouterr().out == "Clouds cool.\n"


def test_one_turn_draws_what_the_reply_calls_for(bundle, replies, capsys, tmp_path):
    replies["cat"] = "Sure: <gen>a cat</gen> Enjoy!"
    pipeline = save_pipeline(tmp_path / "tiny")
    out = tmp_path / "out"
    arguments = ["--model", str(bundle), "--generator", f"image={pipeline}", "--out", str(out)]
    assert main(["chat", *arguments, "draw a cat"]) == 0
    assert capsys.readouterr().out == (f"Sure: [image: a cat] Enjoy!\n{out}/turn-1-image-0.png\n")


def test_one_turn_without_a_generator_shows_the_reply_and_exits_10(bundle, replies, capsys):
    replies["cat"] = "<vid_cap>a cat</vid_cap>"
    assert main(["chat", "--model", str(bundle), "film a cat"]) == 10
    captured = capsys.readouterr()
    assert captured.out == "[video: a cat]\n"
    assert "--generator video=" in captured.err


def test_a_file_of_requests_needs_plan(bundle, capsys, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "why rain?"}')
    assert main(["chat", "--model", str(bundle), "--from", str(path)]) == 2
    assert "llmbind generate --from" in capsys.readouterr().err


def test_a_plan_of_one_turn_is_a_json_line(bundle, replies, capsys):
    replies["rain"] = "Clouds cool."
    assert main(["chat", "--model", str(bundle), "--plan", "why rain?"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["task"], line["reply"]) == ("text", "Clouds cool.")


def test_the_session_remembers_and_resets(session, replies, tmp_path):
    replies |= {"cat": "Sure: <gen>a cat</gen>", "red": "<edit>make it red</edit>"}
    session.ask("draw a cat")
    (call,) = session.ask("make it red").calls
    assert call.task == "edit"
    assert [turn["value"] for turn in spoken(session, tmp_path)] == [
        "draw a cat", "Sure: <gen>a cat</gen>", "make it red", "<edit>make it red</edit>",
    ]  # fmt: skip
    session.reset()
    assert spoken(session, tmp_path) == []


def test_a_failed_exchange_leaves_the_conversation_as_it_was(session, replies, tmp_path):
    replies["cat"] = "<gen>a c"
    assert isinstance(session.ask("cat").error, ReplyError)
    assert spoken(session, tmp_path) == []


def test_an_attached_picture_goes_with_the_next_message_only(session, replies, tmp_path):
    session.attach(tmp_path / "photo.png")
    assert len(session.ask("hello").request.images) == 1
    assert session.ask("again").request.images == ()


def test_the_loop_answers_until_end_of_file(repl, replies, monkeypatch, capsys):
    replies["rain"] = "Clouds cool."
    type_in(monkeypatch, "why rain?", "", "/quit", "never read")
    repl.run()
    assert capsys.readouterr().out == "Clouds cool.\n"


def test_a_call_without_generator_does_not_end_the_loop(repl, replies, monkeypatch, capsys):
    replies |= {"cat": "<gen>a cat</gen>", "rain": "Clouds cool."}
    type_in(monkeypatch, "cat", "rain")
    repl.run()
    captured = capsys.readouterr()
    assert captured.out == "[image: a cat]\nClouds cool.\n\n"
    assert "--generator image=" in captured.err


def test_the_commands_of_the_loop(repl, replies, monkeypatch, capsys, tmp_path):
    picture = tmp_path / "photo.png"
    picture.touch()
    saved = tmp_path / "talk.jsonl"
    type_in(
        monkeypatch, "/help", f"/image {picture}", "hi", f"/save {saved}", "/reset",
        f"/save {tmp_path}/empty.jsonl", "/image nowhere.png", "/dance", "/save",
    )  # fmt: skip
    repl.run()
    errors = capsys.readouterr().err
    for expected in ("/reset        forget", "attached photo.png", "nowhere.png: no such file",
                     "no command /dance", "/save needs a file name"):  # fmt: skip
        assert expected in errors
    assert len(json.loads(saved.read_text())["conversations"]) == 2
    assert json.loads((tmp_path / "empty.jsonl").read_text())["conversations"] == []


def test_ctrl_c_stops_the_reply_not_the_program(repl, replies, monkeypatch, capsys, tmp_path):
    replies["rain"] = "Clouds cool."
    ask = repl._turn.session.ask

    def interrupted(prompt, **options):
        if prompt == "long":
            raise KeyboardInterrupt
        return ask(prompt, **options)

    monkeypatch.setattr(repl._turn.session, "ask", interrupted)
    type_in(monkeypatch, "long", KeyboardInterrupt(), "rain")
    repl.run()
    captured = capsys.readouterr()
    assert "Clouds cool." in captured.out
    assert "stopped" in captured.err
    assert len(spoken(repl._turn.session, tmp_path)) == 2
