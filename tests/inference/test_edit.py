"""``llmbind edit``: one picture, a file or a folder for the result, and files of requests."""

from __future__ import annotations

import json

import pytest
from painters import Editor, Painter, Shelf, all_generators, colour_of
from PIL import Image

from llmbind_cli.app import main
from llmbind_cli.errors import PolicyError
from llmbind_cli.inference.model_options import ModelOptions


@pytest.fixture
def generators(monkeypatch):
    """Generators for pictures, edits and sounds, whatever the flags name."""
    monkeypatch.setattr(ModelOptions, "generators", lambda _self, _overrides: all_generators())


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test where a language model is loaded."""
    monkeypatch.setattr(ModelOptions, "load", lambda _self: pytest.fail("the model was loaded"))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (10, 6), (10, 20, 30)).save(path)
    return path


@pytest.fixture
def edit(bundle, tmp_path, capsys):
    """Runs ``llmbind edit`` with the tiny bundle; returns exit code, stdout and stderr."""

    def run(*arguments, out="out"):
        words = [str(argument) for argument in arguments]
        code = main(["edit", "--model", str(bundle), "--out", str(tmp_path / out), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def edited(prompt, seed, start=(10, 20, 30)):
    """The colour that the editor gives a picture of one colour."""
    return tuple((a + b) % 256 for a, b in zip(start, colour_of(prompt, seed), strict=True))


def test_the_model_says_the_instruction_in_its_own_words(
    edit, replies, generators, photo, tmp_path
):
    replies["snow"] = "heavy snow</edit> There."
    code, out, _ = edit("--json", photo, "make it snow")
    line = json.loads(out)
    assert code == 0
    assert (line["id"], line["task"], line["prompt"]) == ("photo", "edit", "heavy snow")
    assert line["files"][0]["path"] == str(tmp_path / "out" / "photo-edit-0.png")
    with Image.open(line["files"][0]["path"]) as picture:
        assert picture.size == (10, 6)
        assert picture.getpixel((0, 0)) == edited("heavy snow", line["seed"])


def test_direct_asks_no_model(edit, generators, no_model, photo, tmp_path):
    code, out, _ = edit("--direct", "--json", photo, "make it snow")
    line = json.loads(out)
    assert (code, line["prompt"], line["reply"]) == (0, "make it snow", None)
    with Image.open(line["files"][0]["path"]) as picture:
        assert picture.getpixel((0, 0)) == edited("make it snow", line["seed"])


def test_the_seed_counts_and_the_file_name_does_not(edit, generators, photo, tmp_path):
    photo.rename(tmp_path / "other.png")
    first = json.loads(edit("--direct", "--json", tmp_path / "other.png", "snow")[1])
    (tmp_path / "other.png").rename(photo)
    second = json.loads(edit("--direct", "--json", photo, "snow")[1])
    third = json.loads(edit("--direct", "--json", "--seed", "1", photo, "snow")[1])
    assert first["seed"] == second["seed"] != third["seed"]
    assert first["files"][0]["sha256"] == second["files"][0]["sha256"]


def test_two_edits_of_one_reply_follow_each_other(edit, replies, generators, photo, tmp_path):
    replies["snow"] = "snow</edit> <edit>a hat</edit>"
    code, out, _ = edit(photo, "snow and a hat", out="result.png")
    assert (code, out) == (0, f"{tmp_path}/result.png\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "result.png"]
    lines = edit("--json", photo, "snow and a hat")[1].splitlines()
    start = (10, 20, 30)
    for line in map(json.loads, lines):
        start = edited(line["prompt"], line["seed"], start)
    with Image.open(tmp_path / "result.png") as picture:
        assert picture.getpixel((0, 0)) == start


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")]
)
def test_the_suffix_of_out_settles_the_type(edit, generators, photo, tmp_path, name, kind):
    assert edit("--direct", photo, "snow", out=name)[:2] == (0, f"{tmp_path / name}\n")
    with Image.open(tmp_path / name) as picture:
        assert (picture.format, picture.size) == (kind, (10, 6))


def test_a_folder_may_have_a_dot_in_its_name(edit, generators, photo, tmp_path):
    (tmp_path / "set.png").mkdir()
    for out in ("v1.2", "set.png"):
        assert edit("--direct", photo, "snow", out=out)[0] == 0
        assert (tmp_path / out / "photo-edit-0.png").is_file()


def test_a_picture_turned_by_exif_is_edited_as_the_viewer_sees_it(edit, generators, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 6), "teal").save(tmp_path / "turned.jpg", exif=exif)
    assert edit("--direct", tmp_path / "turned.jpg", "snow", out="result.png")[0] == 0
    with Image.open(tmp_path / "result.png") as picture:
        assert picture.size == (6, 10)


def test_without_an_edit_generator(edit, no_model, photo):
    code, _, err = edit(photo, "make it snow")
    assert code == 10
    assert "--generator edit=" in err


@pytest.mark.parametrize(
    ("out", "code"), [("nowhere/result.png", 73), ("photo.png/out", 73), ("result.gif", 2)]
)
def test_an_output_that_cannot_be_is_refused_before_the_model_loads(
    edit, generators, no_model, photo, out, code
):
    assert edit(photo, "make it snow", out=out)[0] == code


def test_the_picture_itself_is_not_replaced(edit, generators, no_model, photo, tmp_path):
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    for out in ("photo.png", "link.png"):
        code, _, err = edit(photo, "make it snow", out=out)
        assert (code, "is the picture itself" in err) == (2, True)
    assert photo.read_bytes() == before


def test_a_damaged_picture_is_refused_before_the_model_loads(edit, generators, no_model, photo):
    photo.write_bytes(photo.read_bytes()[:40])
    code, _, err = edit(photo, "make it snow")
    assert code == 65
    assert "cannot be read as a picture" in err


def test_an_empty_instruction(edit, generators, no_model, photo):
    assert edit(photo, " ")[0] == 65


@pytest.mark.parametrize("arguments", [[], ["PHOTO"], ["PHOTO", "snow", "--from", "r.jsonl"]])
def test_one_picture_with_words_or_a_file_of_requests(edit, photo, arguments):
    assert edit(*[photo if word == "PHOTO" else word for word in arguments])[0] == 2


def test_a_picture_that_is_withheld(edit, photo, monkeypatch, tmp_path):
    class Careful(Editor):
        def paint(self, request):
            return PolicyError("withheld")

    monkeypatch.setattr(ModelOptions, "generators", lambda _self, _o: Shelf(Careful()))
    assert edit("--direct", photo, "snow", out="result.png")[0] == 77
    assert not (tmp_path / "result.png").exists()


def test_a_reply_that_asks_for_something_else(edit, replies, generators, photo):
    replies["snow"] = "snow</edit> <gen>snow</gen>"
    code, _, err = edit(photo, "make it snow")
    assert code == 3
    assert "the model asks for image, not for an edit" in err


def test_a_file_of_requests(edit, generators, no_model, photo, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(
        json.dumps(line) + "\n"
        for line in (
            {"id": "a", "prompt": "snow", "image": str(photo)},
            {"id": "b", "prompt": "snow", "image": str(tmp_path / "bad.png")},
            {"id": "c", "prompt": "snow"},
            {"id": "d", "prompt": "snow", "image": str(photo), "modality": "image"},
            {"id": "e", "prompt": "snow", "image": str(photo), "modality": "auto"},
        )
    ))  # fmt: skip
    code, out, _ = edit("--direct", "--json", "--from", requests)
    lines = {line["id"]: line for line in map(json.loads, out.splitlines())}
    assert code == 3
    assert {name: line["status"] for name, line in lines.items()} == {
        "a": "ok", "b": "failed", "c": "failed", "d": "failed", "e": "ok",
    }  # fmt: skip
    assert lines["d"]["error"]["code"] == 65
    assert "\"modality\" is 'image', and this command makes edit" in lines["d"]["error"]["message"]
    assert lines["b"]["error"]["code"] == 65
    assert "no picture to edit" in lines["c"]["error"]["message"]
    with Image.open(lines["a"]["files"][0]["path"]) as picture:
        assert picture.getpixel((0, 0)) == edited("snow", lines["a"]["seed"])


def test_a_file_of_requests_needs_a_folder_and_a_generator(
    edit, no_model, photo, tmp_path, monkeypatch
):
    requests = tmp_path / "requests.jsonl"
    requests.write_text("")
    assert edit("--from", requests, out="result.png")[0] == 2
    monkeypatch.setattr(ModelOptions, "generators", lambda _self, _o: Shelf(Painter()))
    assert edit("--from", requests)[0] == 10
