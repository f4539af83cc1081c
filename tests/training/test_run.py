"""Whole training runs: what they write, how they stop, and that they resume exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from llmbind_cli.errors import ConfigurationError, InputDataError, ModelNotFoundError, OutputError
from llmbind_cli.interrupt import GracefulInterrupt
from llmbind_cli.model.loader import load_model
from llmbind_cli.training.loop import DivergedError
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.run import train


def weights(directory):
    return load_file(directory / "adapter" / "adapter_model.safetensors") | load_file(
        directory / "heads.safetensors"
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def fail_at(monkeypatch, step, error):
    """Let the run die in the given optimizer step."""
    calls = iter(range(1, 10_000))
    forward = LanguageObjective.forward

    def dying(*args, **kwargs):
        if next(calls) > (step - 1) * 2:  # two batches a step
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(LanguageObjective, "forward", dying)


def test_a_run_writes_a_bundle_that_loads_and_a_log_whose_loss_falls(recipe, tmp_path, capsys):
    assert train(recipe, output=tmp_path / "run") == 0
    assert capsys.readouterr().out == f"{tmp_path}/run/bundle\n"
    model = load_model(str(tmp_path / "run" / "bundle"))
    assert model.config.name == "tiny"
    log = (tmp_path / "run" / "log.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    # The frozen base is random, so a small adapter moves it slowly.
    assert lines[-1]["loss_text"] < 0.95 * lines[0]["loss_text"]
    card = (tmp_path / "run" / "bundle" / "README.md").read_text()
    assert "Optimizer steps: 20; dialogues seen: 160" in card
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["sources"][0]["files"].keys() == {"talk.jsonl"}


def test_nothing_that_is_passed_on_tells_where_the_files_lay(recipe, tmp_path):
    train(recipe, output=tmp_path / "run", overrides=["train.steps=1"])
    bundle = tmp_path / "run" / "bundle"
    base = str(json.loads((bundle / "llmbind.json").read_text())["language_model"]["source"])
    for path in bundle.rglob("*"):
        if path.suffix in {".json", ".md"}:
            assert str(tmp_path) not in path.read_text().replace(base, "")


def test_ten_steps_and_ten_after_a_crash_equal_twenty(recipe, tmp_path, monkeypatch):
    train(recipe, output=tmp_path / "whole")
    with monkeypatch.context() as patch:
        fail_at(patch, 14, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe, output=tmp_path / "halves")
    assert json.loads((tmp_path / "halves/last/progress.json").read_text())["step"] == 10
    train(recipe, output=tmp_path / "halves", resume=True)
    assert same(weights(tmp_path / "whole" / "bundle"), weights(tmp_path / "halves" / "bundle"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(recipe, tmp_path, monkeypatch):
    forward = LanguageObjective.forward
    calls = iter(range(1000))

    def diverging(*args, **kwargs):
        losses = forward(*args, **kwargs)
        factor = float("nan") if next(calls) == 24 else 1.0
        return type(losses)(**{**vars(losses), "total": losses.total * factor})

    monkeypatch.setattr(LanguageObjective, "forward", diverging)
    with pytest.raises(DivergedError, match="step 13: the loss is nan") as caught:
        train(recipe, output=tmp_path / "run")
    assert caught.value.exit_code == 1
    assert json.loads((tmp_path / "run/last/progress.json").read_text())["step"] == 10
    load_model(str(tmp_path / "run" / "last" / "bundle"))


def test_a_changed_recipe_or_changed_data_is_not_resumed(recipe, tmp_path):
    train(recipe, output=tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"optim\.lr was 0\.01, is 0\.001"):
        train(recipe, output=tmp_path / "run", overrides=["optim.lr=1e-3"], resume=True)
    talk = tmp_path / "talk.jsonl"
    talk.write_text(talk.read_text().replace("Rain", "Snow"))
    with pytest.raises(ConfigurationError, match="training data has other content"):
        train(recipe, output=tmp_path / "run", resume=True)


def test_an_output_folder_with_a_run_in_it_is_not_overwritten(recipe, tmp_path):
    train(recipe, output=tmp_path / "run", overrides=["train.steps=1"])
    with pytest.raises(OutputError, match="is not empty; go on with its run by --resume"):
        train(recipe, output=tmp_path / "run")
    with pytest.raises(ModelNotFoundError, match="nothing to resume here"):
        train(recipe, output=tmp_path / "other", resume=True)


def test_what_a_run_without_a_checkpoint_left_cannot_be_gone_on_with(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").touch()
    with pytest.raises(OutputError, match="is not empty; remove it, or name another --output"):
        train(recipe, output=tmp_path / "run")
    with pytest.raises(ModelNotFoundError, match="start without --resume, in an empty folder"):
        train(recipe, output=tmp_path / "run", resume=True)


def test_a_seed_may_be_a_date(recipe, tmp_path):
    settings = ["train.steps=1", f"train.seed={2**63 - 1}"]
    assert train(recipe, output=tmp_path / "run", overrides=settings) == 0


def test_a_dry_run_checks_and_writes_nothing(recipe, tmp_path, capsys):
    before = set(tmp_path.iterdir())
    assert train(recipe, output=tmp_path / "run", dry_run=True) == 0
    assert "talk  conversations         24" in capsys.readouterr().out
    assert {p.name for p in set(tmp_path.iterdir()) - before} <= {"cache"}


def test_a_dialogue_that_is_too_long_is_named(recipe, tmp_path):
    with pytest.raises(InputDataError, match=r"talk: dialogue 0 has \d+ tokens, more than"):
        train(recipe, output=tmp_path / "run", overrides=["train.max_tokens=10"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_a_checkpoint(recipe, tmp_path, environment, number, code):
    command = [
        sys.executable, "-m", "llmbind_cli", "train", str(recipe), "--output",
        str(tmp_path / "run"), "--set", "train.steps=100000", "--set", "train.log_every=1",
    ]  # fmt: skip
    run = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(run.pid, number)
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == code, errors
    assert "go on with --resume" in errors
    load_model(str(tmp_path / "run" / "last" / "bundle"))


def test_a_second_sigint_interrupts_at_once():
    with GracefulInterrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_time_limit_ends_the_run_with_its_bundle(recipe, tmp_path):
    settings = ["train.time_limit_s=0.01", "train.holdout=0.2"]
    assert train(recipe, output=tmp_path / "run", overrides=settings) == 0
    assert json.loads((tmp_path / "run/last/progress.json").read_text())["step"] == 1
    assert json.loads((tmp_path / "run/best/score.json").read_text())["step"] == 1
    load_model(str(tmp_path / "run" / "bundle"))
