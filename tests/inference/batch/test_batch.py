"""A batch, resumed: what is done stays, what is not is done, and another job is refused."""

from __future__ import annotations

import hashlib
import json
import shutil

import fake_makers
import pytest

from llmbind_cli.app import main
from llmbind_cli.inference import planner
from llmbind_cli.weights.lock import exclusive_lock


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch):
    """Install the fake generators; return a function that tells what they did since."""
    monkeypatch.syspath_prepend(fake_makers.install(tmp_path / "plug-in"))
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))

    def since():
        text = log.read_text() if log.exists() else ""
        log.write_text("")
        return [line.removeprefix("make ") for line in text.splitlines() if line[:4] == "make"]

    return since


@pytest.fixture
def run(bundle, capsys, tmp_path):
    """Run a batch of rows in this process; return exit code, JSON lines and stderr."""

    def batch(rows, *arguments, out="out", model=bundle):
        text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        path = tmp_path / "requests.jsonl"
        path.write_text(text)
        named = ["--model", model, "--from", path, "--out", tmp_path / out]
        code = main(["generate", "--json", *map(str, [*named, *fake_makers.FLAGS, *arguments])])
        captured = capsys.readouterr()
        return code, [json.loads(line) for line in captured.out.splitlines()], captured.err

    return batch


@pytest.fixture
def asked(monkeypatch, replies):
    """Count the requests that the model is asked about."""
    prompts = []
    decode = planner.decode

    def counting(model, encoded, **options):
        prompts.append(len(encoded))
        return decode(model, encoded, **options)

    monkeypatch.setattr(planner, "decode", counting)
    return prompts


def rows_of(*ids, modality="image"):
    return [{"id": name, "prompt": f"thing {name}", "modality": modality} for name in ids]


def files_in(folder):
    """Name → content of all files but the records of the run."""
    kept = (path for path in folder.iterdir() if path.suffix in (".png", ".mp4", ".wav"))
    return {path.name: path.read_bytes() for path in kept}


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def timeless(line):
    return json.loads(line) | {"seconds": None}


def test_a_rerun_makes_nothing_and_tells_all_again(run, made, tmp_path):
    _, first, _ = run(rows_of("a", "b"), "--direct")
    assert made() == ["image thing a", "image thing b"]
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    code, second, _ = run(rows_of("a", "b"), "--direct")
    assert (code, made()) == (0, [])
    assert second == [line | {"status": "skipped"} for line in first]
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before


def test_an_unfinished_job_goes_on(run, made, tmp_path):
    run(rows_of("a", "b", "c"), "--direct", out="whole")
    run(rows_of("a"), "--direct")
    made()
    code, lines, _ = run(rows_of("a", "b", "c"), "--direct")
    assert (code, made()) == (0, ["image thing b", "image thing c"])
    assert [line["status"] for line in lines] == ["skipped", "ok", "ok"]
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["gone", "altered", "linked"])
def test_a_file_that_is_not_as_it_was_is_made_again(run, made, tmp_path, damage):
    run(rows_of("a", "b"), "--direct")
    whole, path = files_in(tmp_path / "out"), tmp_path / "out" / "a-image-0.png"
    shutil.move(path, tmp_path / "kept.png")
    if damage == "altered":
        path.write_bytes(b"half")
    elif damage == "linked":
        path.symlink_to(tmp_path / "out" / "b-image-0.png")
    made()
    code, lines, _ = run(rows_of("a", "b"), "--direct")
    assert (code, made()) == (0, ["image thing a"])
    assert {line["id"]: line["status"] for line in lines} == {"a": "ok", "b": "skipped"}
    assert files_in(tmp_path / "out") == whole
    assert not path.is_symlink()
    assert sorted(line["id"] for line in manifest(tmp_path / "out")) == ["a", "b"]


def test_failed_items_are_tried_again(run, made, tmp_path):
    rows = [*rows_of("a"), {"id": "b", "prompt": "secret", "modality": "audio"}]
    for _ in range(2):
        code, lines, errors = run(rows, "--direct")
        assert code == 3
        assert "1 of 2 items failed; the first: withheld" in errors
        assert made()[-1] == "audio secret"
        assert lines[-1]["error"] == {"code": 77, "message": "withheld"}
        assert [line["id"] for line in manifest(tmp_path / "out")] == ["a", "b"]


def test_new_lines_extend_the_job_and_old_ones_may_leave(run, made, tmp_path):
    run(rows_of("a", "b"), "--direct")
    made()
    code, lines, _ = run(rows_of("c", "b"), "--direct")
    assert (code, made()) == (0, ["image thing c"])
    assert {line["id"]: line["status"] for line in lines} == {"c": "ok", "b": "skipped"}
    card = json.loads((tmp_path / "out" / "job.json").read_text())
    assert list(card["requests"]) == ["a", "b", "c"]


def test_an_id_that_stood_for_another_request_stops_the_run(run, made):
    run(rows_of("a"), "--direct")
    made()
    code, lines, errors = run([{"id": "a", "prompt": "other", "modality": "image"}], "--direct")
    assert (code, lines, made()) == (65, [], [])
    assert "'a' stood for another request" in errors


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--seed", 1], "seed: 0, now 1"),
        (["--modality", "image"], "modality: auto, now image"),
        (["--dtype", "float32"], "dtype: auto, now float32"),
        (["--shard", "1/2"], "shards: 1, now 2"),
        (["--steps", 4], 'image settings: {}, now {"steps": 4}'),
        (["--preset", "lcm"], 'image settings: {}, now {"preset": "lcm"}'),
        (["--size", "64x32"], 'image settings: {}, now {"height": 32, "width": 64}'),
    ],
)
def test_other_flags_are_another_job(run, made, flags, difference):
    run(rows_of("a"), "--direct")
    made()
    code, lines, errors = run(rows_of("a"), "--direct", *flags)
    assert (code, lines, made()) == (78, [], [])
    assert difference in errors


def test_a_refused_command_leaves_no_job_behind(run, made, tmp_path):
    rows = [{"id": "a", "prompt": "thing a"}]
    code, _, errors = run(rows, "--direct")
    assert (code, "hands 'a' to no generator" in errors) == (2, True)
    assert not (tmp_path / "out").exists()
    assert run(rows, "--direct", "--modality", "image")[0] == 0
    assert made() == ["image thing a"]


@pytest.mark.parametrize("first", [[], ["--shard", "1/2"]])
def test_a_job_that_made_nothing_gives_way_to_another(run, made, tmp_path, first):
    rows = [{"id": "item 1", "prompt": "secret", "modality": "image"}]
    assert run(rows, "--direct", "--seed", 1, *first)[0] == 3
    code, lines, _ = run(rows_of("item 1"), "--direct", "--dry-run")
    assert (code, lines[0]["to_do"]) == (0, 1)
    made()
    code, lines, _ = run(rows_of("item 1"), "--direct")
    assert (code, made()) == (0, ["image thing item 1"])
    assert [line["status"] for line in manifest(tmp_path / "out")] == ["ok"]
    assert run(rows_of("item 1"), "--direct", "--seed", 1)[0] == 78


def test_a_job_that_decided_or_is_at_work_gives_way_to_none(run, replies, tmp_path):
    replies["thing"] = "Clouds cool."
    rows = [{"id": "item 1", "prompt": "thing"}]
    assert run(rows, out="decided")[0] == 3
    assert run(rows, "--seed", 1, out="decided")[0] == 78
    rows = [{"id": "item 1", "prompt": "secret", "modality": "image"}]
    assert run(rows, "--direct", "--shard", "1/2")[0] == 3
    with exclusive_lock(tmp_path / "out" / ".lock-1-of-2"):
        assert run(rows, "--direct", "--shard", "2/2", "--seed", 1)[0] == 78
    assert run(rows, "--direct", "--shard", "2/2", "--seed", 1)[0] == 0


def test_other_weights_are_another_job(run, replies, bundle, tmp_path):
    replies["thing"] = "<gen>a cat</gen>"
    copy = shutil.copytree(bundle, tmp_path / "copy")
    run([{"id": "a", "prompt": "thing"}], model=copy)
    # Only touched, or moved elsewhere: the same weights.
    (copy / "heads.safetensors").touch()
    assert run([{"id": "a", "prompt": "thing"}], model=copy)[0] == 0
    assert run([{"id": "a", "prompt": "thing"}])[0] == 0
    config = json.loads((copy / "llmbind.json").read_text())
    (copy / "llmbind.json").write_text(json.dumps(config | {"name": "other"}))
    code, _, errors = run([{"id": "a", "prompt": "thing"}], model=copy)
    assert code == 78
    assert "(model: tiny@" in errors
    assert "now other@" in errors
    code, _, errors = run([{"id": "a", "prompt": "thing", "modality": "image"}], "--direct")
    assert code == 78
    assert "direct: False, now True; model: tiny@" in errors


def test_no_resume_demands_an_empty_folder(run, made):
    assert run(rows_of("a"), "--direct", "--no-resume")[0] == 0
    made()
    code, _, errors = run(rows_of("a"), "--direct", "--no-resume")
    assert (code, made()) == (73, [])
    assert "is not empty" in errors


def test_a_folder_with_results_of_other_runs_keeps_them(run, replies, bundle, tmp_path, capsys):
    replies["cat"] = "<gen>a cat</gen>"
    one = ["generate", "--model", str(bundle), *fake_makers.FLAGS, "--out", str(tmp_path / "out")]
    assert main([*one, "cat"]) == 0
    capsys.readouterr()
    whole = files_in(tmp_path / "out")
    assert run(rows_of("a"), "--direct")[0] == 0
    assert files_in(tmp_path / "out").items() > whole.items()
    shutil.rmtree(tmp_path / "out")
    assert main([*one, "cat"]) == 0
    capsys.readouterr()
    code, _, errors = run(rows_of("prompt"), "--direct")
    assert code == 73
    assert "'prompt' that another run made" in errors


def test_a_bad_line_is_recorded_once_and_cured(run, tmp_path):
    bad = '{"id": "b", "prompt": 7}\n'
    for _ in range(2):
        code, lines, _ = run([*rows_of("a"), bad], "--direct")
        assert code == 3
        assert {line["id"]: line["error"] and line["error"]["code"] for line in lines} == {
            "a": None,
            "b": 65,
        }
        assert len(manifest(tmp_path / "out")) == 2
    assert run(rows_of("a", "b"), "--direct")[0] == 0
    assert [line["status"] for line in manifest(tmp_path / "out")] == ["ok", "ok"]


def test_no_requests(run, tmp_path):
    assert run([])[:2] == (0, [])
    assert manifest(tmp_path / "out") == []
    code, _, errors = run([], "--fail-if-empty")
    assert code == 5
    assert "no requests" in errors


def test_the_model_is_asked_once(run, replies, asked, made):
    replies |= {"one": "<gen>a cat</gen>", "cut": "<gen>a", "rain": "Clouds cool."}
    rows = [{"id": name, "prompt": name} for name in ("one", "cut", "rain")]
    code, first, _ = run(rows)
    assert (code, asked, made()) == (3, [3], ["image a cat"])
    code, second, errors = run(rows)
    assert (code, asked, made()) == (3, [3], [])
    assert {x["id"]: x["status"] for x in second} == {
        "one": "skipped", "cut": "failed", "rain": "empty",
    }  # fmt: skip
    assert "2 of 3 items failed" in errors
    strip = {"status": None, "seconds": None}
    assert sorted((x | strip for x in first), key=str) == sorted(
        (x | strip for x in second), key=str
    )
    run([*rows, {"id": "new", "prompt": "one more"}])
    assert asked == [3, 1]


def test_two_calls_of_one_reply_both_run_and_one_alone_is_redone(run, replies, made, tmp_path):
    replies["cat"] = "<aud_cap>purring</aud_cap> <gen>a cat</gen>"
    run([{"id": "a", "prompt": "cat"}])
    assert made() == ["audio purring", "image a cat"]
    assert sorted(files_in(tmp_path / "out")) == ["a-audio-0.wav", "a-image-1.png"]
    (tmp_path / "out" / "a-image-1.png").unlink()
    _, lines, _ = run([{"id": "a", "prompt": "cat"}])
    assert made() == ["image a cat"]
    assert [(x["task"], x["status"]) for x in lines] == [("audio", "skipped"), ("image", "ok")]


def test_an_edit_acts_on_the_picture_that_its_reply_made(run, replies, made, tmp_path):
    replies["cat"] = "<edit>redder</edit>"
    code, (line,), _ = run([{"id": "a", "prompt": "cat"}], out="without")
    assert (code, line["error"]["code"]) == (3, 2)
    replies["dog"] = "<gen>a dog</gen><edit>redder</edit><edit>rounder</edit>"
    replies["bird"] = "<gen>a bird</gen><edit>redder</edit>"
    rows = [{"id": name, "prompt": name} for name in ("bird", "dog")]
    assert run(rows)[0] == 0
    assert made() == [
        "image a bird", "image a dog", "edit redder", "edit redder", "edit rounder",
    ]  # fmt: skip
    whole = files_in(tmp_path / "out")
    (tmp_path / "out" / "dog-edit-2.png").unlink()
    assert run(rows)[0] == 0
    assert made() == ["edit rounder"]
    assert files_in(tmp_path / "out") == whole


def test_first_results_do_not_wait_for_the_last_decision(run, replies, asked, made, monkeypatch):
    replies["thing"] = "<gen>a cat</gen>"
    seen = []
    counting = planner.decode

    def decode(*arguments, **options):
        seen.append(len(made()))
        return counting(*arguments, **options)

    monkeypatch.setattr(planner, "decode", decode)
    rows = [{"id": str(n), "prompt": "thing"} for n in range(14)]
    assert run(rows, "--batch-size", 2)[0] == 0
    assert asked == [2] * 7
    # Windows of 2, 4, 8: the generators ran before the second, fourth and no other decision.
    assert seen == [0, 2, 0, 4, 0, 0, 0]


def test_results_depend_on_neither_order_nor_batch_nor_shard(run, tmp_path):
    rows = [
        row | {"modality": ["image", "video"][n % 2]} for n, row in enumerate(rows_of(*"abcde"))
    ]
    run(rows, "--direct", out="whole")
    run(rows[::-1], "--direct", "--batch-size", 1, out="reverse")
    for number in (1, 2, 3):
        assert run(rows, "--direct", "--shard", f"{number}/3", out="shards")[0] == 0
    whole = files_in(tmp_path / "whole")
    assert len(whole) == 5
    assert files_in(tmp_path / "reverse") == files_in(tmp_path / "shards") == whole


def test_a_line_carries_its_own_seed_and_picture(run, replies, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "red.png").read_bytes()[:50])
    replies["cat"] = "<edit>redder</edit>"
    rows = [
        {"id": "a", "prompt": "cat", "image": str(tmp_path / "red.png"), "seed": 7},
        {"id": "b", "prompt": "cat", "image": str(tmp_path / "torn.png")},
        {"id": "c", "prompt": "cat", "image": str(tmp_path / "none.png")},
    ]
    code, lines, _ = run(rows)
    by_id = {line["id"]: line for line in lines}
    assert code == 3
    assert (by_id["a"]["status"], by_id["a"]["seed"]) == ("ok", 7)
    assert [by_id[name]["error"]["code"] for name in "bc"] == [65, 65]
    assert "torn.png: cannot be read as a picture" in by_id["b"]["error"]["message"]
    (path,) = by_id["a"]["files"]
    digest = hashlib.sha256(b"edit redder 7" + Image.new("RGB", (8, 8), "red").tobytes()).digest()
    assert Image.open(path["path"]).tobytes() == digest[:24]


def test_a_named_generator_that_is_not_there_stops_the_batch(run, tmp_path):
    run(rows_of("a"), "--direct")
    arguments = ["generate", "--from", str(tmp_path / "requests.jsonl"), "--direct"]
    assert main([*arguments, "--generator", "image=./nowhere", "--out", str(tmp_path / "o")]) == 10


def test_a_missing_generator_may_be_named_later(bundle, tmp_path, capsys, made):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "surf", "modality": "video"}) + "\n")
    base = ["generate", "--model", str(bundle), "--from", str(path), "--direct", "--out"]
    base.append(str(tmp_path / "out"))
    assert main(base) == 3
    assert main([*base, "--generator", "video=fake-video"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/a-video-0.mp4\n"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_job_card_that_cannot_be_read_stops_the_run(run, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.json").write_text(content)
    code, _, errors = run(rows_of("a"), "--direct")
    assert code == 78
    assert "job.json" in errors


@pytest.mark.parametrize("name", ["manifest.jsonl", "decisions.jsonl"])
def test_torn_tails_are_dropped_and_whole_lines_of_rubbish_are_not(run, replies, tmp_path, name):
    replies["thing"] = "<gen>a cat</gen>"
    rows = [{"id": name, "prompt": "thing"} for name in "abc"]
    run(rows)
    path = tmp_path / "out" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert run(rows)[0] == 0
    redone = path.read_bytes()
    assert [timeless(line) for line in redone.splitlines()] == [
        timeless(line) for line in whole.splitlines()
    ]
    path.write_bytes(whole + b"rubbish\n")
    code, _, errors = run(rows)
    assert code == 65
    assert f"{name}:4: is no JSON" in errors


def test_flags_that_only_save_memory_change_no_job(run, made):
    run(rows_of("a"), "--direct", "--steps", 4)
    made()
    saving = ["--memory-budget", 4, "--vae-slicing", "--cpu-offload"]
    code, (line,), _ = run(rows_of("a"), "--direct", "--steps", 4, *saving)
    assert (code, line["status"], made()) == (0, "skipped", [])
