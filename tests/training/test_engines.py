"""The two engines do the same arithmetic, and a run on either resumes bit for bit."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file

from llmbind_cli.errors import ConfigurationError, UnavailableError
from llmbind_cli.training import deepspeed_engine
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.run import train

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)
# DeepSpeed and what it imports warn about their own use of torch.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def _everything_is_sharded(monkeypatch):
    """Leave no tensor out of ZeRO 3 for being small, as all tensors here are."""
    monkeypatch.setattr(deepspeed_engine, "PERSISTENT_ELEMENTS", 0)
    # ZeRO 3 puts a linear of its own in the place of torch's, for good.
    monkeypatch.setattr(torch.nn.functional, "linear", torch.nn.functional.linear)


def on_deepspeed(stage, *, offload=False):
    settings = ['engine.kind="deepspeed"', f"engine.zero_stage={stage}"]
    return settings + (["engine.offload_optimizer=true"] if offload else [])


def log_of(directory):
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss_text" in line]


def largest_difference(one, other):
    pairs = zip(log_of(one), log_of(other), strict=True)
    return max(abs(a["loss_text"] - b["loss_text"]) for a, b in pairs)


def weights(directory):
    bundle = directory / "bundle"
    return load_file(bundle / "adapter" / "adapter_model.safetensors") | load_file(
        bundle / "heads.safetensors"
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


SHORT = ["train.steps=8", "train.log_every=1", "optim.clip=0.3"]


@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "offload"),
    [
        (0, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        (2, False),
        pytest.param(2, True, marks=pytest.mark.slow),
        (3, False),
        pytest.param(3, True, marks=pytest.mark.slow),
    ],
)
def test_deepspeed_gives_the_losses_of_the_plain_engine(recipe, tmp_path, stage, offload):
    train(recipe, output=tmp_path / "plain", overrides=SHORT)
    train(recipe, output=tmp_path / "zero", overrides=SHORT + on_deepspeed(stage, offload=offload))
    # Stage 0 takes the very same operations. The others divide by (norm / clip + 1e-6) instead of
    # multiplying by clip / (norm + 1e-6), and stage 3 sums the two paths of each adapted layer's
    # input gradient in another order: float32 rounding of losses near 6.
    tolerance = 0.0 if stage == 0 else 5e-5
    assert largest_difference(tmp_path / "plain", tmp_path / "zero") <= tolerance
    norms = [[line["gradient_norm"] for line in log_of(tmp_path / d)] for d in ("plain", "zero")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert max(norms[0]) > 0.3  # the clipping took part
    rates = [[line["lr"] for line in log_of(tmp_path / name)] for name in ("plain", "zero")]
    assert rates[0] == rates[1]


@needs_deepspeed
@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    "settings",
    [
        [
            'lora_moe.router="block"',
            'train.talk_target="base"',
            "train.gradient_checkpointing=true",
        ],
        ["lora_moe.dropout=0.2"],
    ],
    ids=["block-base-checkpointing", "dropout"],
)
def test_so_it_does_with_every_part_of_the_objective(recipe, tmp_path, stage, settings):
    train(recipe, output=tmp_path / "plain", overrides=SHORT + settings)
    train(recipe, output=tmp_path / "zero", overrides=SHORT + settings + on_deepspeed(stage))
    assert largest_difference(tmp_path / "plain", tmp_path / "zero") <= 5e-5  # as above


@needs_deepspeed
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_bfloat16_base_trains_alike_under_float32_adapters(recipe, tmp_path, stage):
    bfloat16 = [*SHORT, 'model.dtype="bfloat16"']
    train(recipe, output=tmp_path / "plain", overrides=bfloat16)
    train(recipe, output=tmp_path / "zero", overrides=bfloat16 + on_deepspeed(stage))
    # Stage 3 rounds the two paths of an input gradient to bfloat16 (8 bits) before their sum.
    tolerance = {0: 0.0, 2: 5e-3, 3: 2e-2}[stage]
    assert largest_difference(tmp_path / "plain", tmp_path / "zero") <= tolerance
    assert {t.dtype for t in weights(tmp_path / "zero").values()} == {torch.float32}


def test_gradient_checkpointing_changes_no_bit(recipe, tmp_path):
    train(recipe, output=tmp_path / "plain", overrides=SHORT)
    train(recipe, output=tmp_path / "less", overrides=[*SHORT, "train.gradient_checkpointing=true"])
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "less"))


@needs_deepspeed
@pytest.mark.parametrize(
    "stage", [*(pytest.param(s, marks=pytest.mark.slow) for s in (0, 1)), 2, 3]
)
def test_ten_steps_and_ten_after_a_crash_equal_twenty(recipe, tmp_path, monkeypatch, stage):
    settings = [*on_deepspeed(stage), "lora_moe.dropout=0.1"]
    train(recipe, output=tmp_path / "whole", overrides=settings)
    forward, calls = LanguageObjective.forward, iter(range(1000))

    def dying(*args, **kwargs):
        if next(calls) == 27:  # two a step
            raise RuntimeError("power cut")
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageObjective, "forward", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            train(recipe, output=tmp_path / "halves", overrides=settings)
    assert json.loads((tmp_path / "halves/last/progress.json").read_text())["step"] == 10
    train(recipe, output=tmp_path / "halves", overrides=settings, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "halves"))
    assert largest_difference(tmp_path / "whole", tmp_path / "halves") == 0


@needs_deepspeed
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_frozen_weights_have_no_optimizer_state(recipe, tmp_path, stage):
    train(recipe, output=tmp_path / "run", overrides=["train.steps=1", *on_deepspeed(stage)])
    state = load_file(tmp_path / "run" / "last" / "optimizer-0-of-1.safetensors")
    moments = sum(t.numel() for name, t in state.items() if name.startswith("exp_avg."))
    trained = sum(t.numel() for t in weights(tmp_path / "run").values())
    assert trained <= moments < trained + 16  # ZeRO pads its shards for alignment


def test_a_missing_deepspeed_is_named_with_what_installs_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'llmbind\[train\]'") as caught:
        train(recipe, output=tmp_path / "run", overrides=['engine.kind="deepspeed"'])
    assert caught.value.exit_code == 69
    assert not (tmp_path / "run").exists()


def test_the_plain_engine_refuses_a_launcher(recipe, tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r'set engine\.kind = "deepspeed"'):
        train(recipe, output=tmp_path / "run")
