"""Log lines: what they add up, how their routers are called, and what TensorBoard gets."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import asdict

import pytest
import torch
from tiny_binding_model import build

from llmbind_cli.data.batches import collate
from llmbind_cli.data.encode import REPLY_KINDS, EncodedSample
from llmbind_cli.errors import UnavailableError
from llmbind_cli.nn.router import Router
from llmbind_cli.training import tensorboard
from llmbind_cli.training.meter import Meter
from llmbind_cli.training.objective import Losses
from llmbind_cli.training.parameters import router_names
from llmbind_cli.training.run import train


def losses(text, *, kind=0, count=4, load=((1.0, 0.0), (0.25, 0.75))):
    counts = torch.zeros(len(REPLY_KINDS), dtype=torch.long)
    counts[kind] = count
    return Losses(
        total=torch.tensor(text + 0.01, requires_grad=True),
        text=torch.tensor(text),
        balance=torch.tensor(0.01),
        kind_sums=counts * text,
        kind_counts=counts,
        router_load=torch.tensor(load),
    )


def batch(*lengths):
    return collate(
        [
            EncodedSample(ids=[5] * n, loss_weights=[1.0] * n, reply_kinds=[0] * n, tasks=())
            for n in lengths
        ]
    )


def meter(**changes):
    settings = {"routers": ["layers.1.up_proj", "layers.3.mlp"], "first_step": 10}
    return Meter(**settings | {"total_steps": 30} | changes)


def test_a_line_is_the_mean_over_passes_and_processes():
    first, second = meter(), meter()
    first.add(batch(16, 8), losses(1.0, kind=0, count=4))
    first.add(batch(4), losses(2.0, kind=1, count=2, load=((0.0, 1.0), (0.75, 0.25))))
    second.add(batch(16), losses(3.0, kind=0, count=12))
    totals = [pickle.loads(pickle.dumps(m.totals())) for m in (first, second)]  # noqa: S301
    line = first.line(totals, step=12, gradient_norm=0.5, lr=1e-3)
    assert line.loss_text == pytest.approx(2.0)
    assert line.loss_by_kind == pytest.approx({"text": (4 * 1 + 12 * 3) / 16, "image": 2.0})
    assert line.router_load == {
        "layers.1.up_proj": [0.6667, 0.3333],
        "layers.3.mlp": [0.4167, 0.5833],
    }
    assert line.padding == pytest.approx(1 - 44 / 64)
    assert line.peak_memory_gib > 0.01


def test_a_meter_begins_anew_after_each_line(monkeypatch):
    clock = iter([0.0, 4.0, 4.0, 6.0, 6.0])
    monkeypatch.setattr("llmbind_cli.training.meter.time.monotonic", lambda: next(clock))
    one = meter()
    one.add(batch(16, 16), losses(5.0))
    first = one.line([one.totals()], step=12, gradient_norm=1.0, lr=1e-3)
    assert first.tokens_per_s == pytest.approx(32 / 4)
    assert first.eta_s == pytest.approx(18 * 4 / 2)  # 2 steps since the start took 4 s
    one.add(batch(16), losses(1.0))
    second = one.line([one.totals()], step=13, gradient_norm=1.0, lr=1e-3)
    assert second.loss_text == pytest.approx(1.0)
    assert second.tokens_per_s == pytest.approx(16 / 2)
    assert second.eta_s == pytest.approx(17 * 6 / 3)


def test_nothing_counted_makes_no_line():
    with pytest.raises(ValueError, match="at least one forward pass"):
        meter().totals()


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_every_number_of_a_line_is_finite_json(norm):
    one = meter()
    one.add(batch(3), losses(1.0))
    line = one.line([one.totals()], step=11, gradient_norm=norm, lr=1e-3)
    assert json.loads(json.dumps(asdict(line), allow_nan=False))["gradient_norm"] is None


@pytest.mark.parametrize(
    ("router", "names"),
    [
        ("linear", [f"layers.{i}.{p}_proj" for i in (1, 3) for p in ("gate", "up", "down")]),
        ("block", ["layers.1.mlp", "layers.3.mlp"]),
    ],
)
def test_router_names_stand_in_the_order_of_the_calls(
    router, names, trained_base, tmp_path, monkeypatch
):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path))
    model = build(trained_base, router=router).language_model
    assert router_names(model) == names
    owners = [module for module in model.modules() if isinstance(module, Router)]
    called = []
    for number, owner in enumerate(owners):
        observe = owner.observe

        def noting(logits, number=number, observe=observe):
            called.append(number)
            observe(logits)

        monkeypatch.setattr(owner, "observe", noting)
    model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13]]))
    assert called == list(range(len(names)))


def test_a_run_logs_routers_by_name_and_writes_events_and_a_plot(recipe, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is in the extra train")
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra train")
    train(recipe, output=tmp_path / "run", overrides=["train.tensorboard=true", "train.steps=10"])
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert len(lines[0]["router_load"]) == 6
    for shares in lines[0]["router_load"].values():
        assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert lines[-1]["eta_s"] == 0.0
    assert (tmp_path / "run/plot.png").read_bytes()[1:4] == b"PNG"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    text = events.Scalars("loss/text")
    assert [(e.step, pytest.approx(e.value)) for e in text] == [
        (line["step"], line["loss_text"]) for line in lines
    ]
    assert "router_load/layers.1.gate_proj/0" in events.Tags()["scalars"]


def test_a_missing_tensorboard_is_named_before_the_model_loads(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'llmbind\[train\]'") as caught:
        train(
            recipe,
            output=tmp_path / "run",
            overrides=["train.tensorboard=true", "model.base=/nowhere"],
        )
    assert caught.value.exit_code == 69
    assert not (tmp_path / "run").exists()
