"""``train --build-data``: files that read back as the same samples, and what is said about them."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from tiny_tokenizers import byte_level

from llmbind_cli.data.conversations import read_conversations
from llmbind_cli.data.sample import Turn
from llmbind_cli.errors import ConfigurationError, InputDataError, LockHeldError, OutputError
from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.tokens import TASK_TOKENS, register_task_tokens
from llmbind_cli.training.build_data import LOCK_NAME, build_data
from llmbind_cli.training.samples import load_samples
from llmbind_cli.training.sources import open_builder, read_source
from llmbind_cli.weights.lock import exclusive_lock

RECIPE = """
[model]
base = "./absent"
[[data]]
name = "Dialogues/one"
kind = "builder"
seed = 5
count = 500
talk = ["talk.jsonl"]
captions = { audio = ["sounds.txt"] }
[[data]]
name = "read"
kind = "conversations"
paths = ["read.jsonl", "more/read.jsonl"]
[[data]]
name = "two"
kind = "builder"
count = 50
[train]
steps = 1
[output]
dir = "run"
"""


@pytest.fixture
def builders(tmp_path):
    """The path of a recipe with two builders."""
    (tmp_path / "talk.jsonl").write_text(
        '{"prompt": "why?", "reply": "Because", "complete": false}\n'
        '{"prompt": "how do I embed a clip?", "reply": "Write <video>."}\n'
    )
    (tmp_path / "sounds.txt").write_text("rain on a roof\na bell\n")
    spoken = [{"from": "human", "value": "<gen>?"}, {"from": "gpt", "value": "A marker."}]
    (tmp_path / "more").mkdir()
    for number, file in enumerate((tmp_path / "read.jsonl", tmp_path / "more/read.jsonl"), 1):
        file.write_text((json.dumps({"conversations": spoken}) + "\n") * number)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def built_file(folder):
    (path,) = folder.glob("Dialogues-one-*.jsonl")
    return path


def test_files_read_back_as_what_the_builder_makes(builders, tmp_path, capsys):
    build_data(builders, output=tmp_path / "out")
    written = capsys.readouterr().out.splitlines()
    source = load_recipe(builders).data[0]
    path = built_file(tmp_path / "out")
    assert written == [str(path), str(tmp_path / "out" / "two.jsonl")]
    read = list(read_conversations(path))
    assert read == list(open_builder(source))
    assert Turn("assistant", "Because", complete=False) in [t for d in read for t in d.turns]
    assert any("Write <video>." in t.text for d in read for t in d.turns)
    assert len({tuple(t.text for t in d.turns) for d in read}) == 500


def test_the_json_line_says_what_was_written(builders, tmp_path, llmbind):
    run = llmbind("train", str(builders), "--build-data", "--output", str(tmp_path / "o"), "--json")
    assert run.returncode == 0, run.stderr
    first, second = map(json.loads, run.stdout.splitlines())
    path = built_file(tmp_path / "o")
    assert first["path"] == str(path)
    assert first["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert first["dialogues"] == len(path.read_text().splitlines()) == 500
    assert sum(first["kinds"].values()) == 500
    assert first["dialogues_per_minute"] > 0
    assert first["statistics"]["duplicates"] == 0
    assert first["statistics"]["cut_replies"] > 0
    assert second["source"] == "two"
    assert json.loads(path.with_suffix(".statistics.json").read_text()) == first
    for row in ("dialogues", "calls", "openings", "4-grams", "repetitions", "sha256"):
        assert re.search(rf"^  {row} ", run.stderr, re.MULTILINE), row


def test_the_same_recipe_gives_the_same_bytes(builders, tmp_path):
    for folder in ("a", "b"):
        build_data(builders, output=tmp_path / folder)
    assert built_file(tmp_path / "a").read_bytes() == built_file(tmp_path / "b").read_bytes()
    build_data(builders, output=tmp_path / "b", overrides=["data.0.count=200"])
    shorter = built_file(tmp_path / "b").read_bytes()
    assert built_file(tmp_path / "a").read_bytes().startswith(shorter)


def samples_of(recipe_path):
    recipe = load_recipe(recipe_path)
    tokenizer = byte_level()
    table = register_task_tokens(tokenizer, TASK_TOKENS)
    return load_samples(recipe.data, tokenizer, table, recipe.train)


def test_samples_of_the_file_are_samples_of_the_builder(builders, tmp_path, capsys):
    train = "steps = 1\nmax_tokens = 100000"
    text = builders.read_text().replace("count = 500", "count = 150").replace("steps = 1", train)
    builders.write_text(text)
    build_data(builders, output=tmp_path / "out")
    path = built_file(tmp_path / "out")
    first, rest = text.index("[[data]]"), text.index('[[data]]\nname = "read"')
    reading = f'[[data]]\nname = "r"\nkind = "conversations"\npaths = ["{path}"]\n'
    reader = tmp_path / "reader.toml"
    reader.write_text(text[:first] + reading + text[rest:])
    built, read = samples_of(builders), samples_of(reader)
    assert read.sha256 == built.sha256
    assert read.samples == built.samples
    assert sum(built.sources[0]["kinds"].values()) == 150
    assert read.sources[0]["read"][path.name]["dialogues"] == 150
    assert f"r: {path.name}: 150 dialogues, " in capsys.readouterr().err


def test_what_was_read_reaches_the_user(builders, capsys):
    reader = read_source(load_recipe(builders).data[1])
    assert len(list(reader)) == 3
    described = reader.describe()
    assert described["files"].keys() == described["read"].keys() == {"read.jsonl", "read.jsonl (2)"}
    assert described["read"]["read.jsonl (2)"] == {
        "dialogues": 2,
        "turns": 2,
        "calls": {"talk": 2},
        "cut": 0,
        "user_tags": 2,
        "plain_markers": 0,
    }
    assert capsys.readouterr().err == (
        "read: read.jsonl: 1 dialogues, 1 turns; calls: talk 1; "
        "1 task tags in human turns stay text\n"
        "read: read.jsonl (2): 2 dialogues, 2 turns; calls: talk 2; "
        "2 task tags in human turns stay text\n"
    )


def test_a_dry_run_logs_the_counts(recipe, tmp_path, capsys):
    from llmbind_cli.training.run import train

    train(recipe, output=tmp_path / "run", dry_run=True)
    line = "talk: talk.jsonl: 24 dialogues, 24 turns; calls: talk 12, image 12"
    assert line in capsys.readouterr().err


def test_a_recipe_without_a_builder_is_refused(recipe, tmp_path):
    with pytest.raises(ConfigurationError, match='no data source of kind "builder"'):
        build_data(recipe, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_faults_leave_what_stood_there(builders, tmp_path):
    build_data(builders, output=tmp_path / "out")
    before = built_file(tmp_path / "out").read_bytes()
    (tmp_path / "talk.jsonl").write_text("oops\n")
    with pytest.raises(InputDataError, match=r"talk\.jsonl: line 1: no JSON"):
        build_data(builders, output=tmp_path / "out")
    with (
        exclusive_lock(tmp_path / "out" / LOCK_NAME),
        pytest.raises(LockHeldError, match="held by another"),
    ):
        build_data(builders, output=tmp_path / "out")
    assert built_file(tmp_path / "out").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        build_data(builders, output=tmp_path / "file" / "out")


@pytest.mark.parametrize("flag", ["--resume", "--dry-run"])
def test_flags_that_do_not_fit_are_refused(builders, llmbind, flag):
    run = llmbind("train", str(builders), "--build-data", flag)
    assert run.returncode == 2
    assert "--build-data goes with neither --resume nor --dry-run" in run.stderr


def test_sigterm_leaves_no_half_file(builders, tmp_path, environment):
    command = [
        sys.executable, "-m", "llmbind_cli", "train", str(builders), "--build-data",
        "--output", str(tmp_path / "out"), "--set", "data.0.count=10000000",
    ]  # fmt: skip
    run = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".llmbind-*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 143
    assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK_NAME}


def test_no_model_and_no_torch_is_loaded(builders, tmp_path, environment):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from llmbind_cli.training.build_data import build_data\n"
        f"build_data(Path({str(builders)!r}), output=Path({str(tmp_path / 'out')!r}))\n"
        "assert not {'torch', 'transformers', 'openai'} & sys.modules.keys(), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True, timeout=60)
