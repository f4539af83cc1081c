"""Checkpoints: what a killed, a full or a changed run leaves, and that it goes on exactly."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.errors import (
    ConfigurationError,
    InputDataError,
    IntegrityError,
    LockHeldError,
    StorageError,
)
from llmbind_cli.model.loader import load_model
from llmbind_cli.training import run as run_module
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.engine import TorchEngine
from llmbind_cli.training.holdout import HeldOutLoss, Holdout, split_holdout
from llmbind_cli.training.run import train
from llmbind_cli.training.run_log import RunLog
from llmbind_cli.training.samples import TrainingData
from llmbind_cli.weights.lock import exclusive_lock


def weights(bundle):
    return load_file(bundle / "adapter" / "adapter_model.safetensors") | load_file(
        bundle / "heads.safetensors"
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def step_of(directory):
    return json.loads((directory / "last" / "progress.json").read_text())["step"]


@pytest.mark.parametrize(
    ("calls", "delays", "settings"),
    [
        (5, 1, []),
        pytest.param(20, 10, [], marks=pytest.mark.slow),
        pytest.param(
            20,
            0,
            ['engine.kind="deepspeed"', "engine.zero_stage=3", "train.holdout=0.2"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["few", "many", "deepspeed"],
)
def test_kill_9_anywhere_in_a_checkpoint_costs_nothing(
    recipe, tmp_path, environment, root, calls, delays, settings
):
    command = [
        sys.executable, root / "tests/support/kill_points.py", recipe, tmp_path,
        str(calls), str(delays), *settings,
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["survived"] == calls + delays
    assert report["calls"] > 50  # the calls of a checkpoint were seen
    assert {3, 6} >= set(report["found"][:calls])  # the earlier checkpoint, or the new one


# The tokenizer, the adapter and the optimizer's state are each the first file over a limit.
@pytest.mark.parametrize("limit", [1024, 14_000, 20_000])
def test_a_full_disk_leaves_the_checkpoint_before(recipe, tmp_path, monkeypatch, limit):
    save, saves = run_module.save_checkpoint, iter(range(10))

    def with_a_full_disk(*args, **kwargs):
        full = next(saves) == 1
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            if full:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            save(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", with_a_full_disk)
        with pytest.raises(StorageError, match="free some space and run again") as caught:
            train(
                recipe,
                output=tmp_path / "run",
                overrides=["train.steps=4", "train.checkpoint_every=2"],
            )
    assert caught.value.exit_code == 74
    assert step_of(tmp_path / "run") == 2
    load_model(str(tmp_path / "run" / "last" / "bundle"))
    assert not list((tmp_path / "run").glob(".*.new"))


def held_out_losses(run):
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss_holdout"]) for line in lines if "loss_holdout" in line]


def test_the_best_bundle_is_that_of_the_lowest_loss_held_out(recipe, tmp_path, monkeypatch):
    losses = iter(HeldOutLoss(text=1.0, mask=n - 1, total=n) for n in (3.0, 2.0, 2.5))
    monkeypatch.setattr(run_module.Holdout, "loss", lambda self, engine: next(losses))
    settings = ["train.steps=6", "train.holdout=0.2", "train.evaluate_every=2", "train.log_every=6"]
    train(recipe, output=tmp_path / "run", overrides=settings)
    score = json.loads((tmp_path / "run/best/score.json").read_text())
    assert score == {"step": 4, "loss_holdout": 2.0}
    card = load_model(str(tmp_path / "run/best/bundle")).config.training
    assert (card["steps"], card["dialogues_held_out"]) == (4, 4)
    assert held_out_losses(tmp_path / "run") == [(2, 3.0), (4, 2.0), (6, 2.5)]
    assert same(weights(tmp_path / "run/bundle"), weights(tmp_path / "run/last/bundle"))
    assert not same(weights(tmp_path / "run/bundle"), weights(tmp_path / "run/best/bundle"))


def test_a_run_that_was_stopped_when_a_loss_was_due_measures_it_first(
    recipe, tmp_path, monkeypatch
):
    settings = ["train.steps=4", "train.holdout=0.2", "train.evaluate_every=2"]
    train(recipe, output=tmp_path / "whole", overrides=settings)
    with monkeypatch.context() as patch:
        losses = TorchEngine.losses
        calls = iter(range(1, 100))

        def stopped(engine, batch):
            if next(calls) == 4 * 2:  # two batches a step
                signal.raise_signal(signal.SIGTERM)
            return losses(engine, batch)

        patch.setattr(TorchEngine, "losses", stopped)
        assert train(recipe, output=tmp_path / "run", overrides=settings) == 143
    assert held_out_losses(tmp_path / "run") == held_out_losses(tmp_path / "whole")[:1]
    train(recipe, output=tmp_path / "run", overrides=settings, resume=True)
    assert held_out_losses(tmp_path / "run") == held_out_losses(tmp_path / "whole")
    scores = [(tmp_path / run / "best/score.json").read_text() for run in ("run", "whole")]
    assert scores[0] == scores[1]


def test_a_checkpoint_that_was_being_swapped_is_found(recipe, tmp_path):
    """Where folders cannot be exchanged, a kill between two renames leaves it aside."""
    settings = ["train.steps=2"]
    train(recipe, output=tmp_path / "run", overrides=settings)
    (tmp_path / "run/last").rename(tmp_path / "run/.last.previous")
    assert train(recipe, output=tmp_path / "run", overrides=settings, resume=True) == 0
    assert step_of(tmp_path / "run") == 2


def test_measuring_the_holdout_loss_does_not_touch_the_training(recipe, tmp_path):
    settings = ["train.steps=4", "train.holdout=0.3", "train.log_every=1", "lora_moe.dropout=0.1"]
    train(recipe, output=tmp_path / "a", overrides=[*settings, "train.evaluate_every=1"])
    train(recipe, output=tmp_path / "b", overrides=[*settings, "train.evaluate_every=4"])
    assert same(weights(tmp_path / "a/bundle"), weights(tmp_path / "b/bundle"))


def test_the_holdout_loss_weighs_ids_not_batches():
    class Engine:
        mode = True

        def train(self, mode):
            self.mode = mode

        def losses(self, batch):
            assert not self.mode
            return SimpleNamespace(text=batch.input_ids.max().float(), mask=None)

    held = samples([1, 1, 1], [2, 2, 2], [8, 8, 8])
    engine = Engine()
    loss = Holdout(held, batch_size=2, processes=Processes()).loss(engine)
    # Two batches of losses 2 and 8, with 4 and 2 ids that carry loss (the first is never a target).
    assert loss.text == loss.total == pytest.approx((4 * 2 + 2 * 8) / 6)
    assert loss.mask is None
    assert engine.mode


def test_without_holdout_there_is_no_best(recipe, tmp_path):
    train(recipe, output=tmp_path / "run", overrides=["train.steps=1"])
    assert not (tmp_path / "run" / "best").exists()


def samples(*contents):
    return [
        EncodedSample(ids=ids, loss_weights=[1.0] * 3, reply_kinds=[0] * 3, tasks=())
        for ids in contents
    ]


def training_data(sizes, contents):
    return TrainingData(
        samples=samples(*contents),
        sources=[{"name": f"source {i}"} for i in range(len(sizes))],
        sizes=sizes,
        weights=None,
        sha256="0",
    )


def test_a_share_of_each_source_is_held_out_and_never_trained_on():
    contents = [[i, i % 7, 1] for i in range(40)] + [[i, i % 7, 1] for i in range(30, 50)]
    data = training_data([40, 20], contents)  # ten of the dialogues stand in both sources
    kept, apart = split_holdout(data, share=0.2, seed=1)
    trained, held = ({tuple(s.ids) for s in part} for part in (kept.samples, apart))
    assert not trained & held
    assert len(trained | held) == 50
    assert len(kept.samples) == sum(kept.sizes)
    assert len(kept.samples) + len(apart) == 60
    assert sum(ids[0] < 40 for ids in held) >= 8
    assert sum(ids[0] >= 30 for ids in held) >= 4
    assert split_holdout(data, share=0.2, seed=1)[1] == apart
    assert split_holdout(data, share=0.2, seed=2)[1] != apart
    assert split_holdout(data, share=0.0, seed=1) == (data, [])


def test_a_source_of_one_dialogue_cannot_be_split():
    with pytest.raises(InputDataError, match=r"source 0: train\.holdout leaves nothing"):
        split_holdout(training_data([2], [[1, 2, 3]] * 2), share=0.2, seed=0)


def test_a_changed_number_of_processes_is_not_resumed(recipe, tmp_path):
    settings = ["train.steps=2"]
    train(recipe, output=tmp_path / "run", overrides=settings)
    path = tmp_path / "run" / "last" / "progress.json"
    progress = json.loads(path.read_text())
    path.write_text(json.dumps(progress | {"processes": 2}))
    with pytest.raises(ConfigurationError, match="resumed with 1 processes: it had 2") as caught:
        train(recipe, output=tmp_path / "run", overrides=settings, resume=True)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("name", ["optimizer.safetensors", "random-0.safetensors"])
def test_a_checkpoint_with_a_part_missing_is_refused(recipe, tmp_path, name):
    settings = ["train.steps=2"]
    train(recipe, output=tmp_path / "run", overrides=settings)
    (tmp_path / "run" / "last" / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: the .* state is missing"):
        train(recipe, output=tmp_path / "run", overrides=settings, resume=True)


def test_two_runs_never_write_into_one_folder(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with exclusive_lock(tmp_path / "run" / ".lock"), pytest.raises(LockHeldError) as caught:
        train(recipe, output=tmp_path / "run", overrides=["train.steps=1"])
    assert caught.value.exit_code == 11
    train(recipe, output=tmp_path / "run", overrides=["train.steps=1"])  # the lock left nothing


def test_the_log_of_a_resumed_run_has_each_step_once(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [{"step": step, "loss_text": 1.0} for step in range(1, 5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2, "lo')
    log = RunLog(path, step=2)
    log.write({"step": 3, "loss_text": 2.0})
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == [*lines[:2], {"step": 3, "loss_text": 2.0}]


def test_a_process_knows_its_place_and_a_single_one_asks_nobody():
    alone = Processes()
    assert (alone.is_first, alone.sums([1.5]), alone.largest([3]), alone.gather("a")) == (
        True, [1.5], [3], ["a"],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        Processes(rank=2, size=2)
    with pytest.raises(StorageError, match="full"):
        alone.first(lambda: (_ for _ in ()).throw(StorageError("full")))
