"""``generate`` from words to files, and ``--plan``, on scripted replies."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from tiny_pipeline import save_pipeline

from llmbind_cli.app import main
from llmbind_cli.inference import planner
from llmbind_cli.inference.requests import Request
from llmbind_cli.model.chat_format import ChatTurn
from llmbind_cli.model.decode import Reply


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny")


@pytest.fixture
def llmbind_generate(bundle, capsys):
    """Run the command in this process; return exit code, parsed JSON lines and stderr."""

    def run(*arguments):
        code = main(["generate", "--model", str(bundle), "--json", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, [json.loads(line) for line in captured.out.splitlines()], captured.err

    return run


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_plan_names_task_prompt_and_reply(llmbind_generate, replies):
    replies["cat"] = "Sure: <gen>a cat</gen>"
    code, (line,), _ = llmbind_generate("--plan", "draw a cat")
    assert code == 0
    assert (line["status"], line["task"], line["prompt"]) == ("ok", "image", "a cat")
    assert line["reply"] == "Sure: <gen>a cat</gen>"
    assert line["files"] == []
    assert line["error"] is None
    assert list(line) == [
        "id", "status", "task", "prompt", "reply", "files", "seed", "model", "seconds", "error",
    ]  # fmt: skip


def test_plain_talk_is_a_plan_too(llmbind_generate, replies):
    replies["rain"] = "Clouds cool."
    code, (line,), _ = llmbind_generate("--plan", "why rain?")
    assert (code, line["task"], line["prompt"], line["reply"]) == (0, "text", "", "Clouds cool.")


def test_two_calls_in_one_reply_are_two_lines_in_order(llmbind_generate, replies):
    replies["cat"] = "<gen>a cat</gen> and <aud_cap>purring</aud_cap>"
    _, lines, _ = llmbind_generate("--plan", "cat")
    assert [(line["task"], line["prompt"]) for line in lines] == [
        ("image", "a cat"), ("audio", "purring"),
    ]  # fmt: skip
    assert lines[0]["seed"] != lines[1]["seed"]


def test_a_truncated_reply_is_kept_and_fails(llmbind_generate, replies):
    replies["cat"] = "Sure: <gen>a c"
    code, (line,), errors = llmbind_generate("--plan", "cat")
    assert code == 3
    assert (line["status"], line["reply"]) == ("failed", "Sure: <gen>a c")
    assert line["error"] == {"code": 3, "message": "the reply ends before </gen>"}
    assert "the reply ends before </gen>" in errors


def test_a_batch_records_bad_lines_and_does_the_rest(llmbind_generate, replies, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "1", "prompt": "cat", "source": "cron"}\n{broken\n')
    code, lines, errors = llmbind_generate("--plan", "--from", path)
    assert code == 3
    assert {line["id"]: line["status"] for line in lines} == {"line-2": "failed", "1": "ok"}
    assert lines[1]["extra"] == {"source": "cron"}
    assert "1 of 2 items failed" in errors


def test_a_prompt_that_is_no_whole_text_is_65(llmbind_generate):
    """Bytes of a command line that are no UTF-8 arrive as halves of characters."""
    code, lines, errors = llmbind_generate("--plan", "the \udcff apple")
    assert code == 65
    assert "is half of a character" in errors
    assert [line["status"] for line in lines] == ["failed"]


def test_an_earlier_turn_that_is_no_whole_text_fails_alone(bound, replies):
    spoiled = [ChatTurn(role="user", content="\ud800"), ChatTurn(role="assistant", content=[1])]
    requests = [
        Request(id="a", prompt="cat", history=tuple(spoiled)),
        Request(id="b", prompt="cat"),
    ]
    plans = list(planner.Planner(bound, max_new_tokens=8).plan(requests))
    assert [plan.error and plan.error.exit_code for plan in plans] == [65, None]


def test_an_empty_batch_is_done_at_once(llmbind_generate, tmp_path):
    assert llmbind_generate("--plan", "--from", write(tmp_path / "r.jsonl"))[:2] == (0, [])


def test_the_item_seed_does_not_depend_on_the_batch(llmbind_generate, tmp_path):
    rows = [{"id": str(i), "prompt": f"p{i}"} for i in range(5)]
    _, whole, _ = llmbind_generate("--plan", "--from", write(tmp_path / "a.jsonl", *rows))
    _, part, _ = llmbind_generate(
        "--plan", "--batch-size", 2, "--from", write(tmp_path / "b.jsonl", *rows[::-1])
    )
    assert {x["id"]: x["seed"] for x in whole} == {x["id"]: x["seed"] for x in part}


def test_a_fixed_modality_opens_the_reply(llmbind_generate, replies):
    replies["cat"] = "a cat runs</vid_cap>"
    _, (line,), _ = llmbind_generate("--plan", "--modality", "video", "cat")
    assert (line["task"], line["prompt"]) == ("video", "a cat runs")


@pytest.mark.parametrize(
    ("modality", "allowed"),
    [
        (None, {"image", "edit", "video", "audio"}),
        ("video", {"video"}),
        ("segment", {"segment", "detect"}),
    ],
)
def test_a_fixed_modality_leaves_no_other_task(bound, monkeypatch, tmp_path, modality, allowed):
    asked = {}
    images = (tmp_path / "cat.png",) if modality == "segment" else ()
    for path in images:
        Image.new("RGB", (8, 8)).save(path)

    def decode(_model, prompts, *, openings, tasks, **_options):
        asked["tasks"] = tasks
        return [
            Reply(ids=[*opening], finished=True)
            for _, opening in zip(prompts, openings, strict=True)
        ]

    monkeypatch.setattr(planner, "decode", decode)
    list(planner.Planner(bound, max_new_tokens=4).plan([
        Request(id="1", prompt="cat", modality=modality, images=images)
    ]))  # fmt: skip
    assert asked["tasks"] == [allowed]


def test_a_picture_is_drawn_and_recorded(llmbind_generate, replies, pipeline, tmp_path):
    replies["cat"] = "Sure: <gen>a cat</gen>"
    out = tmp_path / "out"
    code, (line,), errors = llmbind_generate(
        "cat", "--generator", f"image={pipeline}", "--out", out
    )
    assert code == 0, errors
    (file,) = line["files"]
    assert (out / "prompt-image-0.png").read_bytes()[:4] == b"\x89PNG"
    assert file["media_type"] == "image/png"
    assert json.loads((out / "manifest.jsonl").read_text()) == line


def test_direct_needs_no_language_model(llmbind_generate, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr("llmbind_cli.model.loader.load_language_model", lambda *_, **__: 1 / 0)
    code, (line,), errors = llmbind_generate(
        "a cat", "--direct", "--modality", "image", "--generator", f"image={pipeline}",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, errors
    assert (line["prompt"], line["reply"]) == ("a cat", None)


def test_direct_without_a_modality_is_wrong_usage(llmbind_generate, tmp_path):
    code, _, errors = llmbind_generate("a cat", "--direct", "--out", tmp_path / "out")
    assert code == 2
    assert "--modality" in errors


def test_without_a_generator_it_says_how_to_name_one(llmbind_generate, replies, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    code, lines, errors = llmbind_generate("cat", "--out", tmp_path / "out")
    assert (code, lines) == (10, [])
    assert "--generator image=PATH_OR_ID" in errors
    assert "'a cat'" in errors


def test_an_answer_in_words_makes_nothing_and_says_so(llmbind_generate, replies, tmp_path):
    replies["rain"] = "Clouds cool."
    code, (line,), errors = llmbind_generate("why rain?", "--out", tmp_path / "out")
    assert (code, line["status"], line["task"], line["files"]) == (3, "empty", "text", [])
    assert "Clouds cool." in errors


def test_a_mixed_batch_runs_what_it_can(llmbind_generate, replies, pipeline, tmp_path):
    replies |= {"cat": "<gen>a cat</gen>", "rain": "Clouds cool.", "cut": "<gen>a"}
    rows = [{"id": name, "prompt": name} for name in ("cat", "rain", "cut")]
    code, lines, _ = llmbind_generate(
        "--from", write(tmp_path / "r.jsonl", *rows), "--generator", f"image={pipeline}",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 3
    assert {x["id"]: x["status"] for x in lines} == {"cat": "ok", "rain": "empty", "cut": "failed"}
    manifest = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert sorted(map(json.dumps, lines)) == sorted(
        json.dumps(json.loads(line)) for line in manifest
    )


def test_in_a_batch_only_items_without_a_generator_fail(
    llmbind_generate, replies, pipeline, tmp_path
):
    replies |= {"cat": "<gen>a cat</gen>", "surf": "<vid_cap>surf</vid_cap>"}
    rows = [{"id": name, "prompt": name} for name in ("surf", "cat")]
    code, lines, _ = llmbind_generate(
        "--from", write(tmp_path / "r.jsonl", *rows), "--generator", f"image={pipeline}",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 3
    errors = {line["id"]: line["error"] and line["error"]["code"] for line in lines}
    assert errors == {"cat": None, "surf": 10}


def test_an_empty_prompt_is_refused(llmbind_generate):
    assert llmbind_generate("--plan", " ")[0] == 65


def test_an_output_that_cannot_be_written_fails_before_any_model_loads(
    llmbind_generate, tmp_path, monkeypatch
):
    monkeypatch.setattr("llmbind_cli.model.loader.load_model", lambda *_, **__: 1 / 0)
    blocked = tmp_path / "file"
    blocked.touch()
    assert llmbind_generate("cat", "--out", blocked / "out")[0] == 73


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["a cat", "--shard", "1/2"], "--from"),
        (["a cat", "--dry-run"], "--from"),
        (["a cat", "--fail-if-empty"], "--from"),
        (["a cat", "--no-resume"], "--from"),
        (["--from", "-", "--shard", "0/2"], "between 1 and"),
        (["--from", "-", "--shard", "3/2"], "between 1 and"),
        (["--from", "-", "--shard", "half"], "i/n"),
        (["--from", "-", "--merge", "."], "exclude"),
        (["a cat", "--wait", "-1"], "--wait"),
    ],
)
def test_wrong_usage(capsys, arguments, word):
    assert main(["generate", *arguments]) == 2
    assert word in capsys.readouterr().err
