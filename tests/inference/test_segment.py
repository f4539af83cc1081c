"""``segment``: masks in the viewer's frame, several of them, boxes, batches, and faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_vision import light_sight, picture, sam_sight, save_clip, save_efficientnet, save_sam

from llmbind_cli import app
from llmbind_cli.data.rle import decode_runs, runs_from_text
from llmbind_cli.inference import planner
from llmbind_cli.inference.requests import Request
from llmbind_cli.model.chat_format import ChatTurn
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.model.decode import Reply
from llmbind_cli.model.loader import load_model
from llmbind_cli.tokens import encode_reply_text

TASKS = ["image", "segment", "detect"]


@pytest.fixture(scope="session", params=["light", "sam"])
def bundle(tmp_path_factory, request):
    """A small random bundle that sees, on disk."""
    folder = tmp_path_factory.mktemp("sighted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBIND_CACHE", str(folder / "cache"))
        if request.param == "light":
            config = light_sight(save_efficientnet(folder / "net"))
        else:
            config = sam_sight(save_clip(folder / "clip"), save_sam(folder / "sam"))
        model = build(save_base(folder / "base"), sight=config, tasks=TASKS)
    save_bundle(model, folder / "bundle", card="# Tiny\n")
    return folder / "bundle"


@pytest.fixture
def said(monkeypatch):
    """What the model is to reply, by a part of the prompt; hidden states follow from the place."""
    scripted: dict[str, str] = {}

    def decode(model, prompts, *, images, **_options):
        answers = []
        for prompt, pictures in zip(prompts, images, strict=True):
            places = sum(index < 0 for index in prompt)
            assert places == sum(len(p) for p in pictures)
            text = model.tokenizer.decode([i for i in prompt if i >= 0])
            asked = text.rpartition("<|im_start|>user")[2]
            reply = next((r for part, r in scripted.items() if part in asked), "Hm.")
            ids = encode_reply_text(model.tokenizer, reply, model.token_table)
            pointing = {
                i for i, t in model.token_table.openers.items() if t.task in ("segment", "detect")
            }
            states = {
                place: torch.randn(32, generator=torch.Generator().manual_seed(place))
                for place, index in enumerate(ids)
                if index in pointing
            }
            answers.append(Reply(ids=ids, finished=True, hidden_states=states))
        return answers

    monkeypatch.setattr(planner, "decode", decode)
    return scripted


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    picture(50, 33).save(path)
    return path


def opened(path) -> Image.Image:
    """A picture in memory, its file closed."""
    with Image.open(path) as image:
        image.load()
        return image


def run(*arguments) -> int:
    return app.main(["segment", *map(str, arguments)])


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_mask_is_a_grey_picture_of_the_photo_s_size(bundle, said, photo, tmp_path, capsys):
    said["the cat"] = "It is here: <seg>."
    assert run(photo, "the cat", "--model", bundle, "--out", tmp_path / "out", "--json") == 0
    (line,) = lines_of(capsys)
    assert (line["status"], line["task"], line["id"]) == ("ok", "segment", "photo")
    assert line["prompt"] == "It is here"
    assert line["reply"] == "It is here: <seg>."
    (file,) = line["files"]
    assert file["media_type"] == "image/png"
    mask = opened(file["path"])
    assert (mask.size, mask.mode) == ((50, 33), "L")
    assert set(np.unique(np.asarray(mask))) <= {0, 255}
    (recorded,) = (tmp_path / "out/manifest.jsonl").read_text().splitlines()
    assert json.loads(recorded) == line


def test_a_turned_photo_s_mask_is_as_the_viewer_sees_it(bundle, said, tmp_path):
    """One picture stored upright, and the same one stored on its side with EXIF 6."""
    said["the cat"] = "<seg>"
    upright = picture(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    masks = []
    for name in ("upright", "turned"):
        out = tmp_path / f"{name}-mask.png"
        assert run(tmp_path / f"{name}.png", "the cat", "--model", bundle, "--out", out) == 0
        masks.append(np.asarray(opened(out)))
    assert masks[0].shape == (60, 40)
    assert np.array_equal(masks[0], masks[1])


def test_several_masks_come_in_order_each_with_its_phrase(bundle, said, photo, tmp_path, capsys):
    said["both"] = "The red apple <seg>, and the cat on the left <seg> and <seg>."
    assert run(photo, "both", "--model", bundle, "--out", tmp_path / "out", "--json") == 0
    lines = lines_of(capsys)
    assert [line["prompt"] for line in lines] == ["The red apple", "the cat on the left", "both"]
    names = [line["files"][0]["path"].rpartition("/")[2] for line in lines]
    assert names == ["photo-segment-0.png", "photo-segment-1.png", "photo-segment-2.png"]


def test_file_names_are_those_that_were_asked_for(bundle, said, photo, tmp_path, capsys):
    said["both"] = "The apple <seg> and the cat <seg>."
    out = tmp_path / "mask.png"
    assert run(photo, "both", "--model", bundle, "--out", out, "--overlay") == 0
    printed = capsys.readouterr().out.split()
    expected = ["mask.png", "mask-overlay.png", "mask-2.png", "mask-2-overlay.png"]
    assert printed == [str(tmp_path / name) for name in expected]
    overlay = opened(tmp_path / "mask-overlay.png")
    assert (overlay.size, overlay.mode) == ((50, 33), "RGB")
    mask = np.asarray(opened(out)) > 0
    original, drawn = np.asarray(opened(photo)), np.asarray(overlay)
    assert np.array_equal(drawn[~mask], original[~mask])
    if mask.any():
        assert not np.array_equal(drawn[mask], original[mask])


def test_a_picture_s_name_says_nothing_of_what_its_files_are(bundle, said, photo, tmp_path, capsys):
    """Such a name is what an overlay of an earlier run has."""
    said["both"] = "The apple <seg> and the cat <seg>."
    drawn = photo.rename(tmp_path / "photo-segment-overlay-1.png")
    for more, expected in (
        ((), ["mask.png", "mask-2.png"]),
        (("--overlay",), ["mask.png", "mask-overlay.png", "mask-2.png", "mask-2-overlay.png"]),
    ):
        folder = tmp_path / f"{len(more)}"
        folder.mkdir()
        assert run(drawn, "both", "--model", bundle, "--out", folder / "mask.png", *more) == 0
        assert capsys.readouterr().out.split() == [str(folder / name) for name in expected]
        assert opened(folder / "mask.png").mode == "L"


@pytest.mark.parametrize(
    ("out", "refused"),
    [
        ("photo.png", True),
        ("./PHOTO/../photo.png", True),
        ("link.png", True),
        ("a.png", True),  # its overlay
        ("b.png", True),  # its second mask
        ("c.png", False),
        ("b-2.jpg", True),
        ("mask.JPEG", True),
        ("mask.tif", True),
    ],
)
def test_a_file_that_cannot_be_written_is_told_first(bundle, said, photo, tmp_path, out, refused):
    """A mask never takes the place of its picture, nor the suffix of what is not written."""
    said["the cat"] = "<seg>"
    (tmp_path / "PHOTO").mkdir()
    content = photo.read_bytes()
    for name in ("link.png", "a-overlay.png", "b-2.png", "c-1.png"):
        (tmp_path / name).symlink_to(photo)
    asked = (photo, "the cat", "--model", bundle, "--overlay", "--out", f"{tmp_path}/{out}")
    assert run(*asked) == (2 if refused else 0)
    assert photo.read_bytes() == content
    assert not (tmp_path / out).is_dir()


def test_run_lengths_say_the_same_as_the_picture(bundle, said, photo, tmp_path, capsys):
    said["the cat"] = "The cat <seg>."
    for form, name in (("png", "mask.png"), ("rle", "mask.json")):
        out = tmp_path / name
        assert run(photo, "the cat", "--model", bundle, "--out", out, "--format", form) == 0
    mask = np.asarray(opened(tmp_path / "mask.png")) > 0
    rle = json.loads((tmp_path / "mask.json").read_text())
    assert (rle["size"], rle["phrase"], rle["area"]) == ([33, 50], "The cat", int(mask.sum()))
    assert np.array_equal(decode_runs(runs_from_text(rle["counts"]), 33, 50), mask)
    assert run(photo, "x", "--model", bundle, "--out", tmp_path / "m.json") == 2
    assert "--format png is written as .png" in capsys.readouterr().err


def test_a_box_is_in_pixels_of_the_photo(bundle, said, photo, tmp_path, capsys):
    said["where"] = "The cat is there <detect>."
    code = run(photo, "where", "--model", bundle, "--out", tmp_path, "--json", "--overlay")
    assert code == 0
    (line,) = lines_of(capsys)
    assert line["task"] == "detect"
    file, overlay = line["files"]
    box = json.loads(Path(file["path"]).read_text())
    assert file["media_type"] == "application/json"
    assert overlay["path"].endswith("photo-detect-overlay-0.png")
    x1, y1, x2, y2 = box["box"]
    assert 0 <= x1 <= x2 <= 50
    assert 0 <= y1 <= y2 <= 33
    assert (box["size"], box["phrase"]) == ([33, 50], "The cat is there")


@pytest.mark.parametrize("reply", ["I see no cat.", "Gladly: <gen>a cat</gen>"])
def test_a_reply_that_points_at_nothing_is_empty_and_3(
    bundle, said, photo, tmp_path, reply, capsys
):
    said["the cat"] = reply
    assert run(photo, "the cat", "--model", bundle, "--out", tmp_path / "out", "--json") == 3
    captured = capsys.readouterr()
    (line,) = [json.loads(text) for text in captured.out.splitlines()]
    assert (line["status"], line["reply"], line["files"]) == ("empty", reply, [])
    assert line["error"]["code"] == 3
    assert reply in captured.err


def test_what_the_user_types_asks_for_no_mask(bundle, said, photo, tmp_path):
    """The tag in the instruction is words: the model's reply alone decides."""
    said["cat"] = "No."
    assert run(photo, "cat <seg> <seg>", "--model", bundle, "--out", tmp_path / "out") == 3


def test_masks_hang_on_the_state_that_emitted_them_and_on_nothing_else(bundle, tmp_path, photo):
    """The real decoder, without a script: a random model's greedy reply, twice."""
    codes = [
        run(photo, "the cat", "--model", bundle, "--out", tmp_path / name, "--max-new-tokens", 12)
        for name in ("a", "b")
    ]
    assert codes[0] == codes[1]
    assert codes[0] in (0, 3)


@pytest.mark.parametrize("size", [(1, 1), (3000, 2)])
def test_odd_sizes_give_masks_of_their_size(bundle, said, tmp_path, size):
    said["it"] = "<seg>"
    Image.new("RGB", size, "teal").save(tmp_path / "odd.png")
    out = tmp_path / "mask.png"
    assert run(tmp_path / "odd.png", "it", "--model", bundle, "--out", out) == 0
    assert opened(out).size == size


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "RGBA", "I;16"])
def test_every_kind_of_picture_is_read(bundle, said, tmp_path, mode):
    said["it"] = "<seg>"
    name = "photo.tif" if mode == "CMYK" else "photo.png"
    image = picture(20, 30)
    made = Image.new(mode, (20, 30)) if mode == "I;16" else image.convert(mode)
    made.save(tmp_path / name)
    assert run(tmp_path / name, "it", "--model", bundle, "--out", tmp_path / "mask.png") == 0
    assert opened(tmp_path / "mask.png").size == (20, 30)


def test_a_broken_picture_is_65_before_a_model_loads(bundle, tmp_path, monkeypatch):
    from llmbind_cli.inference.model_options import ModelOptions

    monkeypatch.setattr(ModelOptions, "load", lambda _: pytest.fail("a model was loaded"))
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert run(tmp_path / "photo.png", "it", "--model", bundle, "--out", tmp_path) == 65
    picture(20, 30).save(tmp_path / "good.png")
    assert run(tmp_path / "good.png", " ", "--model", bundle, "--out", tmp_path) == 65


def test_a_bundle_without_sight_is_69_and_says_so(tmp_path, photo, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("blind")
    save_bundle(build(save_base(folder / "base")), folder / "bundle", card="# Tiny\n")
    assert run(photo, "it", "--model", folder / "bundle", "--out", tmp_path) == 69
    assert "has no mask decoder, so 'segment' cannot run" in capsys.readouterr().err


def write_requests(tmp_path, *lines):
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_of_requests_gives_a_manifest_and_goes_on(bundle, said, photo, tmp_path, capsys):
    said |= {"the cat": "The cat <seg>.", "two": "One <seg> and another <seg>.", "talk": "Hello."}
    requests = write_requests(
        tmp_path,
        {"id": "a", "prompt": "the cat", "image": str(photo), "note": 7},
        {"id": "b", "prompt": "two", "image": str(photo)},
        {"id": "c", "prompt": "talk", "image": str(photo)},
        {"id": "d", "prompt": "the cat", "image": str(tmp_path / "gone.png")},
        {"id": "e", "prompt": "the cat"},
        {"id": "f", "prompt": "the cat", "image": "iVBORw0KGgo" * 40},
        {"id": "g", "prompt": "the cat", "image": str(photo), "modality": "image"},
    )
    out = tmp_path / "out"
    asked = ("--from", requests, "--model", bundle, "--out", out, "--json")
    assert run(*asked) == 3
    lines = {(line["id"], line["prompt"]): line for line in lines_of(capsys)}
    status = {key: line["status"] for key, line in lines.items()}
    assert status == {
        ("a", "The cat"): "ok",
        ("b", "One"): "ok",
        ("b", "another"): "ok",
        ("c", ""): "empty",
        ("d", ""): "failed",
        ("e", ""): "failed",
        ("f", ""): "failed",
        ("g", ""): "failed",
    }
    assert lines["a", "The cat"]["extra"] == {"note": 7}
    for name, message in {
        "d": "no such file",
        "e": "there is no picture to segment",
        "f": "no such file",
        "g": "\"modality\" is 'image'",
    }.items():
        error = lines[name, ""]["error"]
        assert error["code"] == 65
        assert message in error["message"]
    first = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert sorted(first) == ["a-segment-0.png", "b-segment-0.png", "b-segment-1.png"]
    # One file is lost: the second run makes it anew from the decision, without asking again.
    said.clear()
    (out / "b-segment-1.png").unlink()
    assert run(*asked) == 3
    again = {(line["id"], line["prompt"]): line["status"] for line in lines_of(capsys)}
    assert again["a", "The cat"] == "skipped"
    assert again["b", "another"] == "ok"
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == first


def test_another_format_is_another_job(bundle, said, photo, tmp_path):
    said["the cat"] = "The cat <seg>."
    requests = write_requests(tmp_path, {"id": "a", "prompt": "the cat", "image": str(photo)})
    out = tmp_path / "out"
    assert run("--from", requests, "--model", bundle, "--out", out) == 0
    assert run("--from", requests, "--model", bundle, "--out", out, "--format", "rle") == 78


def test_another_forced_reply_is_another_request(bundle, photo, tmp_path, capsys):
    """The reply that is forced makes the mask, so that an id cannot stand for two of them."""
    line = {"id": "a", "prompt": "the cat", "image": str(photo), "reply": "The cat <seg>."}
    asked = ("--teacher-forced", "--model", bundle, "--out", tmp_path / "out")
    for _ in range(2):
        assert run("--from", write_requests(tmp_path, line), *asked) == 0
    other = write_requests(tmp_path, line | {"reply": "The dog <seg>."})
    assert run("--from", other, *asked) == 65
    assert "id 'a' stood for another request" in capsys.readouterr().err


def test_an_instruction_is_put_as_the_bundle_learned_it(bundle, photo, tmp_path, monkeypatch):
    heard = []

    def decode(model, prompts, **_options):
        heard.extend(model.tokenizer.decode([i for i in p if i >= 0]) for p in prompts)
        return [Reply(ids=[], finished=True) for _ in prompts]

    monkeypatch.setattr(planner, "decode", decode)
    fields = json.loads((bundle / "llmbind.json").read_text())
    other = tmp_path / "bundle"
    other.mkdir()
    for path in bundle.iterdir():
        (other / path.name).symlink_to(path)
    (other / "llmbind.json").unlink()
    (other / "llmbind.json").write_text(json.dumps(fields | {"segment_prompt": "Cut out {}!"}))
    assert run(photo, "the cat", "--model", other, "--out", tmp_path / "out") == 3
    assert "Cut out the cat!" in heard[0]


def test_where_no_picture_is_nothing_can_be_pointed_at(bundle, photo, monkeypatch):
    """A reply to words alone may not mark anything; in a conversation it may be about a drawing."""
    allowed = []

    def decode(*_, tasks, **_options):
        allowed.extend(tasks)
        return [Reply(ids=[], finished=True) for _ in tasks]

    monkeypatch.setattr(planner, "decode", decode)
    drawn = (
        ChatTurn(role="user", content="draw a cat"),
        ChatTurn(role="assistant", content="<gen>a cat</gen>"),
    )
    requests = [
        Request(id="1", prompt="mark the cat"),
        Request(id="2", prompt="mark the cat", images=(photo,)),
        Request(id="3", prompt="mark the cat", history=drawn),
        Request(id="4", prompt="the cat", images=(photo,), modality="segment"),
    ]
    list(planner.Planner(load_model(str(bundle), device="cpu"), max_new_tokens=4).plan(requests))
    assert allowed == [{"image"}, None, None, {"segment", "detect"}]


def test_image_and_requests_exclude_each_other(bundle, photo):
    assert run(photo, "x", "--from", "-", "--model", bundle) == 2
    assert run(photo, "--model", bundle) == 2
