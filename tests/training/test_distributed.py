"""Several processes on one machine: real launchers, real processes, gloo on the CPU."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from llmbind_cli.model.loader import load_model
from llmbind_cli.training.run import train

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)

# What two processes do together, one does with twice the accumulation.
SETTINGS = [
    "train.steps=6",
    "train.log_every=1",
    "train.holdout=0.2",
    "train.evaluate_every=3",
    "train.checkpoint_every=2",
]


@pytest.fixture
def launch(environment, root):
    """Starts two processes by a launcher and returns how it ended."""

    def run(*arguments, stage, launcher="torchrun", restarts=0, **variables):
        script = str(root / "tests/support/one_process.py")
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            f"--max-restarts={restarts}", "--monitor-interval=0.1",
        ]  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        deepspeed = [
            sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators=2",
            "--no_local_rank", f"--master_port={port}", "--master_addr=127.0.0.1",
        ]  # fmt: skip
        command = [
            *{"torchrun": torchrun, "deepspeed": deepspeed}[launcher], script, "train",
            *map(str, arguments), "--set", 'engine.kind="deepspeed"',
            "--set", f"engine.zero_stage={stage}",
        ]  # fmt: skip
        return subprocess.run(
            command, env=environment(**variables), capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Runs two processes once for each stage; returns the output folder and how the run ended."""
    runs = {}

    def run(recipe, launch, *, stage, launcher="torchrun"):
        if (stage, launcher) not in runs:
            folder = tmp_path_factory.mktemp("two") / "run"
            arguments = [recipe, "--output", folder, *set_all(SETTINGS)]
            runs[stage, launcher] = folder, launch(*arguments, stage=stage, launcher=launcher)
        return runs[stage, launcher]

    return run


def set_all(settings):
    return [word for setting in settings for word in ("--set", setting)]


def log_of(directory):
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def weights(directory):
    bundle = directory / "bundle"
    return load_file(bundle / "adapter" / "adapter_model.safetensors") | load_file(
        bundle / "heads.safetensors"
    )


def assert_same_log(one, other):
    """Compare runs whose sums were taken in another order: float32 rounding of losses near 6."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left["step"] == right["step"]
        for key in ("loss_text", "loss_balance", "loss_holdout", "loss_by_kind", "gradient_norm"):
            if key in left:
                assert right[key] == pytest.approx(left[key], rel=1e-5), (left["step"], key)


@pytest.mark.parametrize(
    ("stage", "launcher"),
    [
        pytest.param(0, "torchrun", marks=pytest.mark.slow),
        pytest.param(1, "torchrun", marks=pytest.mark.slow),
        (2, "torchrun"),
        pytest.param(3, "torchrun", marks=pytest.mark.slow),
        pytest.param(2, "deepspeed", marks=pytest.mark.slow),
    ],
)
def test_two_processes_do_what_one_does(recipe, tmp_path, launch, undisturbed, stage, launcher):
    train(recipe, output=tmp_path / "one", overrides=[*SETTINGS, "train.accumulation=4"])
    folder, done = undisturbed(recipe, launch, stage=stage, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert_same_log(log_of(tmp_path / "one"), log_of(folder))
    one, two = weights(tmp_path / "one"), weights(folder)
    # AdamW divides by the gradient's size, so rounding moves a weight by a part of its step 1e-2.
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    # Whole bundles, by one process, and nothing else on stdout.
    if launcher == "torchrun":  # the other one itself writes there
        assert done.stdout == f"{folder / 'bundle'}\n"
    for bundle in ("bundle", "last/bundle", "best/bundle"):
        load_model(str(folder / bundle))
    shards = [load_file(folder / f"last/optimizer-{rank}-of-2.safetensors") for rank in (0, 1)]
    moments = [sum(t.numel() for k, t in s.items() if k.startswith("exp_avg.")) for s in shards]
    trained = sum(tensor.numel() for tensor in one.values())
    expected = trained if stage == 0 else trained / 2
    assert moments == pytest.approx([expected] * 2, rel=0.02)  # padding of the shards aside


@pytest.mark.slow
def test_sharded_weights_bear_batches_that_call_layers_unequally_often(recipe, tmp_path, launch):
    # One dialogue a batch: while one process learns a plain reply from the base, the other may
    # have a call to learn, or more chunks of targets.
    settings = ["train.steps=4", "train.log_every=1", 'train.talk_target="base"',
                "train.batch_size=1", "train.gradient_checkpointing=true"]  # fmt: skip
    train(recipe, output=tmp_path / "one", overrides=[*settings, "train.accumulation=4"])
    done = launch(recipe, "--output", tmp_path / "two", *set_all(settings), stage=3)
    assert done.returncode == 0, done.stderr
    assert_same_log(log_of(tmp_path / "one"), log_of(tmp_path / "two"))


@pytest.mark.parametrize("stage", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_process_is_restarted_and_the_run_ends_as_if_nothing_had_been(
    recipe, tmp_path, launch, undisturbed, stage
):
    whole, done = undisturbed(recipe, launch, stage=stage)
    assert done.returncode == 0, done.stderr
    settings = set_all(SETTINGS)
    killed = launch(
        recipe, "--output", tmp_path / "run", *settings, stage=stage, restarts=2, DIES_AT="1:5"
    )
    assert killed.returncode == 0, killed.stderr
    assert "resumed after step 4 of 6" in killed.stderr
    one, two = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [[line.get("loss_text") for line in log_of(d)] for d in (whole, tmp_path / "run")]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_process_killed_before_any_checkpoint_starts_the_run_anew(recipe, tmp_path, launch):
    settings = set_all(["train.steps=2", "train.log_every=1"])
    done = launch(
        recipe, "--output", tmp_path / "run", *settings, stage=2, restarts=1, DIES_AT="0:2"
    )
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in log_of(tmp_path / "run")] == [1, 2]


@pytest.mark.slow
def test_a_restart_never_takes_over_what_it_did_not_start(recipe, tmp_path, launch):
    (tmp_path / "run" / "last").mkdir(parents=True)
    (tmp_path / "run" / "last" / "progress.json").write_text("{}")
    done = launch(recipe, "--output", tmp_path / "run", stage=2, restarts=1)
    assert done.returncode != 0
    assert done.stderr.count("is not empty; go on with its run by --resume") >= 2


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(recipe, tmp_path, launch):
    settings = set_all(["train.steps=1000", "train.log_every=1"])
    done = launch(
        recipe, "--output", tmp_path / "run", *settings,
        stage=2, DIES_AT="1:3", DIES_BY=str(int(signal.SIGTERM)),
    )  # fmt: skip
    assert done.returncode != 0
    # The launcher's own SIGTERM may meet the second process on its way out.
    assert "exitcode  : 143" in done.stderr, done.stderr
    assert "stopped after step 4; go on with --resume" in done.stderr
    # The signal came after the processes had agreed on the third step, so the fourth is the last.
    assert json.loads((tmp_path / "run/last/progress.json").read_text())["step"] == 4
    assert [line["step"] for line in log_of(tmp_path / "run")] == [1, 2, 3, 4]
    load_model(str(tmp_path / "run" / "last" / "bundle"))
