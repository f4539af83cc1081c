"""The training benchmark on a model of a few thousand weights: same work, figures in their form."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
import torch

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "vocab_size": 300,
}
RUN = {
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
    "clock": "wall",
    "rounds": 2,
    "steps": 2,
    "batch_size": 3,
    "accumulation": 2,
    "median_length": 24,
}
# float32 sums in another order, over a few steps of a small network.
CLOSE = {"rel": 1e-4}


class _Turns:
    """Gives every turn at once and keeps what is reported."""

    def __init__(self):
        self.messages = []

    def recv(self):
        return None

    def send(self, message):
        self.messages.append(message)


@pytest.fixture
def parts(root, monkeypatch):
    """The three modules of the benchmark."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    names = ("training", "training_contenders", "training_rounds")
    yield tuple(importlib.import_module(name) for name in names)
    for name in names:
        sys.modules.pop(name, None)


def train_all(parts, *, loss_on, **changes):
    _, contenders, rounds = parts
    settings = rounds.Settings(base=None, **SHAPE, **(RUN | changes))
    results = {}
    for name in contenders.CONTENDERS:
        turns = _Turns()
        contenders.train_contender(turns, settings, name, loss_on)
        ready, *seconds, results[name] = turns.messages
        assert ready is None
        assert len(seconds) == settings.turns
        assert results[name].seconds == seconds[1:]
    return settings, results


# Trainer reads a property that transformers itself has deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("loss_on", ["all", "replies"])
def test_all_contenders_do_the_same_work(parts, loss_on, capsys):
    training, contenders, _ = parts
    settings, results = train_all(parts, loss_on=loss_on)
    first = {name: result.first_loss for name, result in results.items()}
    last = {name: result.last_loss for name, result in results.items()}
    ours = contenders.OURS
    assert first == pytest.approx(dict.fromkeys(first, first[ours]), **CLOSE)
    # The loops are the same mixture from the same weights, so they stay together.
    for loop in (contenders.EXPERT_LOOP, contenders.GATHER_LOOP):
        assert last[loop] == pytest.approx(last[ours], **CLOSE)
    assert all(last[name] != first[name] for name in first)

    num_ids, padding = training.batch_figures(settings)
    assert num_ids > settings.steps * settings.accumulation * settings.batch_size * 8
    assert 0 <= padding < 1
    rows = training.compare(results, loss_on=loss_on, num_ids=num_ids)
    for row in rows:
        middle, least, most = row.tokens_per_s
        assert 0 < least <= middle <= most
        assert 0 < row.lead[1] <= row.lead[0] <= row.lead[2]
        assert row.result.peak_bytes >= row.result.start_bytes > 0
    assert rows[0].lead == (1.0, 1.0, 1.0)
    bars = training.check_bars(rows)
    assert [bar.limit for bar in bars] == [0.97, 1.5]
    training.check_first_losses(rows, dtype="float32")
    assert capsys.readouterr().out == ""
    training.print_tables(rows, bars)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows) + 1 + len(bars) + 1


def test_the_loss_on_replies_is_that_of_fewer_ids(parts):
    _, contenders, rounds = parts
    settings = rounds.Settings(base=None, **SHAPE, **RUN)
    everything, replies = (
        contenders.make_samples(settings, loss_on=loss_on, vocab_size=300)
        for loss_on in ("all", "replies")
    )
    assert [sample.ids for sample in everything] == [sample.ids for sample in replies]
    share = sum(sum(s.loss_weights) for s in replies) / sum(len(s.ids) for s in replies)
    assert share == pytest.approx(contenders.REPLY_SHARE, abs=0.03)  # lengths are whole
    assert all(weight == 1 for sample in everything for weight in sample.loss_weights)


@pytest.mark.parametrize("gathers", [False, True])
def test_the_loops_equal_the_layer(parts, gathers):
    from literal_lora_moe import D_IN, EXACT, gradients, make_layer

    _, contenders, _ = parts
    layer = make_layer()
    loop = contenders.LiteralMoeLinear(layer, gathers=gathers).double()
    x = torch.randn(2, 5, D_IN, dtype=torch.float64, requires_grad=True)
    # The loop's gates are float32, as they are where it is used.
    loose = EXACT | {"rtol": 1e-5, "atol": 1e-6}
    assert torch.allclose(loop(x), layer(x), **loose)
    of_layer = gradients(layer(x), [x, layer.router.weight])
    of_loop = gradients(loop(x), [x, layer.router.weight])
    for a, b in zip(of_loop, of_layer, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_contenders_of_other_work_are_refused(parts):
    training, _, rounds = parts
    same = {"peak_bytes": 2, "start_bytes": 1, "trained": 1, "last_loss": 1.0}
    results = {
        name: rounds.Result(seconds=[1.0, 2.0], first_loss=5.0 + 0.1 * (name == "b"), **same)
        for name in (training.OURS, "b")
    }
    rows = training.compare(results, loss_on="all", num_ids=100)
    assert rows[1].tokens_per_s == (75.0, 50.0, 100.0)
    with pytest.raises(SystemExit, match="other work"):
        training.check_first_losses(rows, dtype="float32")


def test_the_faster_loop_counts(parts):
    training, contenders, rounds = parts
    same = {"peak_bytes": 2, "start_bytes": 1, "trained": 1, "first_loss": 1.0, "last_loss": 1.0}
    seconds = {
        contenders.OURS: [2.0, 2.0],
        contenders.PEFT: [1.0, 3.0],
        contenders.EXPERT_LOOP: [4.0, 4.0],
        contenders.GATHER_LOOP: [3.2, 2.6],
    }
    results = {name: rounds.Result(seconds=taken, **same) for name, taken in seconds.items()}
    bars = training.check_bars(training.compare(results, loss_on="all", num_ids=100))
    assert [(bar.against, bar.value, bar.holds) for bar in bars] == [
        (contenders.PEFT, 1.0, True),
        (contenders.GATHER_LOOP, pytest.approx(1.45), False),
    ]


@pytest.mark.slow
def test_the_script_writes_a_report(root, tmp_path, environment):
    options = [f"--{key.replace('_', '-')}={value}" for key, value in (SHAPE | RUN).items()]
    options += ["--report", str(tmp_path / "report.json")]
    run = subprocess.run(
        [sys.executable, root / "benchmarks" / "training.py", *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode in (0, 4), run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["rows"]) == 8
    assert len(report["bars"]) == 4
    assert run.returncode == (0 if all(bar["holds"] for bar in report["bars"]) else 4)
