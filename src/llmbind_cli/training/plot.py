"""``plot.png``: a run's losses and the load of its routers, drawn from its log."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmbind_cli.console import console

PLOT_NAME = "plot.png"

# Okabe and Ito's palette, which readers with any common colour vision tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_GREY = "#888888"
_ROUTER_LABELS = 16
_FEW_POINTS = 40
_SIZE_INCHES = (12, 8)
_DPI = 100


def plot_run(log: Path, target: Path) -> bool:
    """Draw a run; never a reason for the run to fail.

    Args:
        log: ``log.jsonl`` of the run, of all processes that took part in it.
        target: The PNG to write, 1200 × 800 pixels.

    Returns:
        Whether a plot was written; a log line says why not.
    """
    lines = read_log(log)
    if not lines:
        console.log(f"no plot: {log.name} holds no complete line")
        return False
    if importlib.util.find_spec("matplotlib") is None:
        console.log("no plot: it needs matplotlib (pip install 'llmbind[train]')")
        return False
    try:
        _draw(lines, target)
    except Exception as error:  # a drawing is never worth a run
        console.log(f"no plot: {type(error).__name__}: {error}")
        return False
    return True


def read_log(log: Path) -> list[dict[str, Any]]:
    """Read a log: one entry a step, in the order of the steps.

    The losses of training and of the dialogues held out stand on lines of their own and come
    together here. Steps that a killed run did again count as they came out last; a torn line is
    left out.
    """
    if not log.is_file():
        return []
    entries: dict[int, dict[str, Any]] = {}
    last = -1
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            step = line["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if step < last:
            entries = {known: entry for known, entry in entries.items() if known < step}
        entries[step] = entries.get(step, {}) | line
        last = step
    return list(entries.values())


def _draw(lines: Sequence[dict[str, Any]], target: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.0, 1.1))
    _draw_losses(figure.add_subplot(grid[0, 0]), lines)
    _draw_kinds(figure.add_subplot(grid[0, 1]), lines)
    _draw_load(figure, figure.add_subplot(grid[1, :]), lines)
    figure.savefig(target)


def _draw_losses(axes: Any, lines: Sequence[dict[str, Any]]) -> None:
    axes.set_title("Loss")
    trained = [line for line in lines if "loss_text" in line]
    held_out = [line for line in lines if "loss_holdout" in line]
    total = {line["step"]: line["loss_text"] + line.get("loss_balance", 0.0) for line in trained}
    _plot(axes, total, label="total, in training", color=_GREY, linestyle="--")
    text = {line["step"]: line["loss_text"] for line in trained}
    _plot(axes, text, label="text, in training", color=_COLOURS[0])
    apart = {line["step"]: line["loss_holdout"] for line in held_out}
    _plot(axes, apart, label="text, held out", color=_COLOURS[5])
    _finish(axes)


def _draw_kinds(axes: Any, lines: Sequence[dict[str, Any]]) -> None:
    axes.set_title("Text loss by kind of reply, in training")
    kinds = sorted({kind for line in lines for kind in line.get("loss_by_kind", {})})
    for number, kind in enumerate(kinds):
        losses = {
            line["step"]: line["loss_by_kind"][kind]
            for line in lines
            if kind in line.get("loss_by_kind", {})
        }
        _plot(axes, losses, label=kind, color=_COLOURS[number % len(_COLOURS)])
    _finish(axes)


def _plot(axes: Any, points: dict[int, float], **style: str) -> None:
    """Draw one line, with its points where they are few enough to tell apart."""
    if points:
        marker = "o" if len(points) <= _FEW_POINTS else ""
        axes.plot(list(points), list(points.values()), marker=marker, markersize=4, **style)


def _finish(axes: Any) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("cross-entropy (nats per id)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True, alpha=0.3)
    if axes.lines:
        highest = max(max(line.get_ydata()) for line in axes.lines)
        axes.set_ylim(0, 1.08 * highest or 1)
        axes.legend(ncols=2, fontsize="small")


def _draw_load(figure: Any, axes: Any, lines: Sequence[dict[str, Any]]) -> None:
    """Draw a row of cells for each router and expert, over the steps."""
    from matplotlib.colors import TwoSlopeNorm

    routed = [line for line in lines if line.get("router_load")]
    axes.set_title("Router load: share of the ids whose first choice an expert is")
    if not routed:
        axes.set_axis_off()
        return
    names = list(routed[-1]["router_load"])
    experts = len(routed[-1]["router_load"][names[0]])
    rows = [
        [line["router_load"][name][expert] for line in routed]
        for name in names
        for expert in range(experts)
    ]
    steps = [line["step"] for line in routed]
    first = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1)
    even = 1 / experts
    mesh = axes.pcolormesh(
        [max(0, first), *steps],
        range(len(rows) + 1),
        rows,
        cmap="PuOr_r",
        norm=TwoSlopeNorm(even, 0, 1) if experts > 1 else None,
    )
    axes.invert_yaxis()
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"router ({experts} rows each: its experts)")
    labelled = range(0, len(names), -(-len(names) // _ROUTER_LABELS))
    axes.set_yticks([(number + 0.5) * experts for number in labelled])
    axes.set_yticklabels([names[number] for number in labelled], fontsize="small")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(names) <= _ROUTER_LABELS:  # with more of them, the lines would hide the cells
        for number in range(1, len(names)):
            axes.axhline(number * experts, color="white", linewidth=2)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01)
    bar.set_label(f"share (even: {even:.2f})")
    ticks = sorted({0.0, even, 0.5, 0.75, 1.0})
    bar.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks])
