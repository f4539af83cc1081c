"""``plot.png``: what it reads, how large it is, and that it never stops a run."""

from __future__ import annotations

import json

import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="matplotlib is in the extra train")

from llmbind_cli.training import plot
from llmbind_cli.training.plot import plot_run, read_log


def line(step, loss=1.0, **more):
    load = {f"layers.{i}.{p}_proj": [0.5, 0.2, 0.3] for i in (1, 3) for p in ("gate", "down")}
    kinds = {"text": loss, "image": loss / 2}
    return {"step": step, "loss_text": loss, "loss_by_kind": kinds, "router_load": load} | more


def write(path, *lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def test_held_out_losses_join_the_step_that_they_belong_to(tmp_path):
    log = write(tmp_path / "log", line(10), {"step": 10, "loss_holdout": 0.9}, line(20))
    assert [entry["step"] for entry in read_log(log)] == [10, 20]
    assert read_log(log)[0]["loss_holdout"] == 0.9
    assert read_log(log)[0]["loss_text"] == 1.0


def test_steps_that_were_done_again_count_once(tmp_path):
    log = write(tmp_path / "log", line(10, 5.0), line(20, 4.0), line(30, 3.0), line(20, 2.0))
    assert [(e["step"], e["loss_text"]) for e in read_log(log)] == [(10, 5.0), (20, 2.0)]


def test_torn_and_foreign_lines_are_left_out(tmp_path):
    log = write(tmp_path / "log", line(10), 7, {"other": 1})
    log.write_text(log.read_text() + '{"step": 20, "loss_te')
    assert [entry["step"] for entry in read_log(log)] == [10]


@pytest.mark.parametrize(
    "lines",
    [
        [line(10)],
        [line(s, 5 - s / 20, loss_holdout=3.0) for s in range(5, 80, 5)],
        [line(5) | {"router_load": {}}, {"step": 7, "loss_holdout": 1.0}],
        [{"step": 7, "loss_holdout": 1.0}],
    ],
    ids=["one line", "many", "no routers", "held out alone"],
)
def test_a_plot_has_its_size_and_is_not_empty(tmp_path, lines):
    assert plot_run(write(tmp_path / "log", *lines), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (1200, 800)
        assert len(image.convert("RGB").getcolors(10**6)) > 50


def test_axes_say_what_they_show(tmp_path, monkeypatch):
    drawn = []
    from matplotlib.figure import Figure

    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    lines = [line(s, 5 - s / 20, loss_holdout=3.0) for s in range(5, 80, 5)]
    plot_run(write(tmp_path / "log", *lines), tmp_path / "plot.png")
    losses, kinds, load, bar = drawn[0].axes
    assert losses.get_ylabel() == kinds.get_ylabel() == "cross-entropy (nats per id)"
    assert {a.get_xlabel() for a in (losses, kinds, load)} == {"optimizer step"}
    assert [text.get_text() for text in losses.get_legend().get_texts()] == [
        "total, in training",
        "text, in training",
        "text, held out",
    ]
    assert [text.get_text() for text in kinds.get_legend().get_texts()] == ["image", "text"]
    assert "layers.3.down_proj" in [label.get_text() for label in load.get_yticklabels()]
    assert bar.get_ylabel() == "share (even: 0.33)"


def test_without_matplotlib_a_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    assert not plot_run(write(tmp_path / "log", line(1)), tmp_path / "plot.png")
    assert "pip install 'llmbind[train]'" in capsys.readouterr().err


def test_a_plot_that_fails_is_no_failure(tmp_path, capsys):
    assert not plot_run(write(tmp_path / "log", line(1)), tmp_path / "no" / "folder" / "plot.png")
    assert "no plot: FileNotFoundError" in capsys.readouterr().err
    assert not plot_run(tmp_path / "absent", tmp_path / "plot.png")
