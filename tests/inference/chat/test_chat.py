"""``llmbind chat`` as a command: one turn, kept sessions, replays, and what is refused early."""

from __future__ import annotations

import json

import pytest
from painters import all_generators
from PIL import Image
from tiny_pipeline import save_pipeline

from llmbind_cli.app import main
from llmbind_cli.inference.model_options import ModelOptions


@pytest.fixture
def painters(monkeypatch):
    """Generators for pictures, edits and sounds, whatever the flags name."""
    monkeypatch.setattr(ModelOptions, "generators", lambda _self, _overrides: all_generators())


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test where a language model is loaded."""

    def refuse(_self):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(ModelOptions, "load", refuse)


@pytest.fixture
def chat(bundle, tmp_path, capsys):
    """Runs ``llmbind chat`` with the tiny bundle; returns exit code, stdout and stderr."""

    def run(*arguments, out="out"):
        code = main(["chat", "--model", str(bundle), "--out", str(tmp_path / out), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (10, 6), "teal").save(path)
    return str(path)


def test_one_turn_prints_the_reply(chat, replies):
    replies["rain"] = "Clouds cool."
    assert chat("why rain?")[:2] == (0, "Clouds cool.\n")


def test_one_turn_draws_what_the_reply_calls_for(chat, replies, tmp_path):
    replies["cat"] = "Sure: <gen>a cat</gen> Enjoy!"
    pipeline = save_pipeline(tmp_path / "tiny")
    code, out, _ = chat("--generator", f"image={pipeline}", "draw a cat")
    assert code == 0
    assert out == f"Sure: [image: a cat] Enjoy!\n{tmp_path}/out/turn-1-image-0.png\n"


def test_one_turn_draws_as_the_flags_say(chat, replies, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    pipeline = save_pipeline(tmp_path / "tiny")
    named = ["--generator", f"image={pipeline}", "--steps", "1", "--strength", "0.5", "--fps", "3"]
    assert chat(*named, "--size", "48x24", "draw a cat")[0] == 0
    with Image.open(tmp_path / "out" / "turn-1-image-0.png") as picture:
        assert picture.size == (48, 24)
    code, _, err = chat(*named, "--size", "33x24", "draw a cat")
    assert code == 2
    assert "the width of --size must be a multiple of" in err


def test_one_turn_edits_the_picture_that_goes_with_it(chat, replies, painters, photo, tmp_path):
    replies["red"] = "<edit>make it red</edit>"
    code, out, _ = chat("--image", photo, "make it red")
    assert (code, out) == (0, f"[edit: make it red]\n{tmp_path}/out/turn-1-edit-0.png\n")


def test_an_edit_without_a_picture_is_wrong_usage(chat, replies, painters):
    replies["red"] = "<edit>make it red</edit>"
    code, out, err = chat("make it red")
    assert (code, out) == (2, "[edit: make it red]\n")
    assert "attach one with --image FILE" in err


def test_one_turn_without_a_generator_shows_the_reply_and_exits_10(chat, replies):
    replies["cat"] = "<vid_cap>a cat</vid_cap>"
    code, out, err = chat("film a cat")
    assert (code, out) == (10, "[video: a cat]\n")
    assert "--generator video=" in err


def test_a_file_of_requests_needs_plan(chat, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "why rain?"}')
    code, _, err = chat("--from", str(path))
    assert code == 2
    assert "generate --from" in " ".join(err.split())


def test_a_plan_of_one_turn_is_a_json_line(chat, replies):
    replies["rain"] = "Clouds cool."
    code, out, _ = chat("--plan", "why rain?")
    line = json.loads(out)
    assert (code, line["task"], line["reply"]) == (0, "text", "Clouds cool.")


def test_json_gives_the_result_line_and_nothing_else(chat, replies, painters):
    replies["cat"] = "Sure: <gen>a cat</gen>"
    code, out, _ = chat("--json", "--preview", "a cat")
    line = json.loads(out)
    assert (code, line["task"], line["status"]) == (0, "image", "ok")


def test_a_session_goes_on_and_is_replayed_byte_for_byte(
    chat, replies, painters, photo, tmp_path, monkeypatch
):
    replies |= {"cat": "<gen>a cat</gen> <aud_cap>purr</aud_cap>", "red": "<edit>red</edit>"}
    session = ("--session", str(tmp_path / "talk.jsonl"))
    assert chat(*session, "--image", photo, "a cat")[0] == 0
    assert chat(*session, "--seed", "5", "make it red")[0] == 0
    assert chat(*session, "now make the first picture red")[0] == 0
    monkeypatch.setattr(ModelOptions, "load", lambda _self: pytest.fail("the model was loaded"))
    code, out, err = chat(*session, "--replay", out="again")
    assert code == 0
    assert "made 4 files again, byte for byte" in err
    names = [
        "turn-1-image-0.png", "turn-1-audio-1.wav", "turn-2-edit-0.png", "turn-3-edit-0.png",
    ]  # fmt: skip
    assert out.split() == [str(tmp_path / "again" / name) for name in names]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_replay_tells_what_is_not_the_same(chat, replies, painters, photo, tmp_path):
    replies |= {"cat": "<gen>a cat</gen>", "red": "<edit>red</edit>"}
    session = ("--session", str(tmp_path / "talk.jsonl"))
    assert chat(*session, "--image", photo, "make it red")[0] == 0
    Image.new("RGB", (10, 6), "pink").save(photo)
    code, _, err = chat(*session, "--replay", out="again")
    assert code == 3
    assert "was altered" in err
    assert "turn-1-edit-0.png) differs from the first one" in err


def test_a_replay_without_the_picture_it_starts_from(chat, replies, painters, photo, tmp_path):
    replies |= {"red": "<edit>red</edit>"}
    session = ("--session", str(tmp_path / "talk.jsonl"))
    assert chat(*session, "--image", photo, "make it red")[0] == 0
    (tmp_path / "photo.png").unlink()
    code, _, err = chat(*session, "--replay", out="again")
    assert code == 3
    assert "no such file" in err


@pytest.mark.parametrize(
    "arguments", [["--replay"], ["--replay", "--session", "nowhere.jsonl"]]
)  # fmt: skip
def test_a_replay_needs_a_session(chat, arguments):
    code, _, err = chat(*arguments)
    assert code == 2
    assert "--replay needs --session FILE" in err


@pytest.mark.parametrize("beside", [["a cat"], ["--plan"], ["--from", "r.jsonl"]])
def test_a_replay_takes_no_message(chat, beside, tmp_path):
    assert chat("--replay", "--session", str(tmp_path / "talk.jsonl"), *beside)[0] == 2


def test_a_plan_keeps_no_session(chat, tmp_path):
    code, _, err = chat("--plan", "--session", str(tmp_path / "talk.jsonl"), "a cat")
    assert code == 2
    assert "--plan runs nothing" in err
    assert not (tmp_path / "talk.jsonl").exists()


def test_a_damaged_picture_is_refused_before_the_model_loads(chat, no_model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, _, err = chat("--image", str(tmp_path / "broken.png"), "make it red")
    assert code == 65
    assert "cannot be read as a picture" in err


def test_a_folder_that_cannot_be_made_is_refused_before_the_model_loads(chat, no_model, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert chat("a cat", out="out/below")[0] == 73


def test_a_damaged_session_is_refused_before_the_model_loads(chat, no_model, tmp_path):
    (tmp_path / "talk.jsonl").write_text("my notes\n")
    assert chat("--session", str(tmp_path / "talk.jsonl"), "a cat")[0] == 65


def test_talk_alone_makes_no_folder(chat, replies, tmp_path):
    assert chat("--gallery", "hello")[0] == 0
    assert not (tmp_path / "out").exists()


def test_a_gallery_is_written_at_the_end(chat, replies, painters, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    code, _, err = chat("--gallery", "a cat")
    assert code == 0
    page = tmp_path / "out" / "index.html"
    assert f"gallery: {page}" in err
    assert "turn-1-image-0.png" in page.read_text()


def test_preview_shows_the_picture_below_its_name(chat, replies, painters):
    replies["cat"] = "<gen>a cat</gen>"
    _, plain, _ = chat("a cat")
    assert "▀" not in plain  # stdout is no terminal here
    _, shown, _ = chat("--preview", "a cat")
    assert shown.startswith(plain)
    assert "▀" in shown
