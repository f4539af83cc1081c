"""Plots as SVG and tables in the page's colours: histogram, interval, confusion, router load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

BINS = 20
_WIDTH, _HEIGHT = 640, 136
_CELL_W, _CELL_H, _GAP = 22, 16, 16
_LETTER_W = 8
"""Widest letter that names of routers are made of, in pixels at 12 px."""

_STRONGEST = 45
"""Share of the accent colour, in percent, below which words on it stay readable."""


def histogram(values: Sequence[float], *, name: str) -> str:
    """Draw how often values occur: 20 bins, from 0 to 1 where all values lie there.

    Words stand beside the drawing, which is stretched to the width of the page, and not in it.

    Args:
        values: Finite, at least one.
        name: Of the column.
    """
    low, high = min(values), max(values)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / (high - low) * BINS))] += 1
    most = max(counts)
    step = _WIDTH / BINS
    bars = []
    for number, count in enumerate(counts):
        height = count / most * _HEIGHT
        edges = [low + (high - low) * edge / BINS for edge in (number, number + 1)]
        bars.append(
            f'<rect x="{number * step + 1:.1f}" y="{_HEIGHT - height:.1f}" '
            f'width="{step - 2:.1f}" height="{height:.1f}">'
            f"<title>{edges[0]:.4g} – {edges[1]:.4g}: {count}</title></rect>"
        )
    mean = math.fsum(values) / len(values)
    place = (mean - low) / (high - low) * _WIDTH
    ticks = "".join(f"<span>{value:.4g}</span>" for value in (low, (low + high) / 2, high))
    return (
        f'<figure class="histogram"><p>{most} {"item" if most == 1 else "items"}</p>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Histogram of {escape(name)}">{"".join(bars)}'
        f'<line class="mean" x1="{place:.1f}" y1="0" x2="{place:.1f}" y2="{_HEIGHT}"/></svg>'
        f'<p class="ticks">{ticks}</p>'
        f"<figcaption>{escape(name)} of {len(values)} items; the line is their mean, "
        f"{mean:.4g}</figcaption></figure>"
    )


def interval_bar(value: float, interval: tuple[float, float]) -> str:
    """Draw a figure between 0 and 1 with its interval."""
    low, high = (min(max(bound, 0.0), 1.0) * 100 for bound in interval)
    return (
        '<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        '<line class="axis" x1="0" y1="6" x2="100" y2="6"/>'
        f'<rect x="{low:.2f}" y="3" width="{max(high - low, 0.6):.2f}" height="6"/>'
        f'<line class="mean" x1="{value * 100:.2f}" y1="0" x2="{value * 100:.2f}" y2="12"/></svg>'
    )


def confusion_table(confusion: Mapping[str, int]) -> str:
    """Lay out how often each expected task was answered with each.

    Args:
        confusion: ``EXPECTED > GOT`` → count.
    """
    pairs = {tuple(key.split(" > ", 1)): count for key, count in confusion.items()}
    rows, columns = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    columns = sorted(columns, key=lambda name: (name not in rows, name))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = []
    for row in rows:
        total = sum(count for pair, count in pairs.items() if pair[0] == row)
        cells = []
        for column in columns:
            count = pairs.get((row, column), 0)
            share = round(count / total * _STRONGEST)
            kind = "right" if row == column else "wrong"
            cells.append(f'<td class="{kind}" style="--heat: {share}%">{count or "·"}</td>')
        lines.append(f'<tr><th scope="row">{escape(row)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="wide"><table class="matrix">'
        "<caption>Expected in rows, made in columns</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def router_load(load: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Draw for each task how much of its tokens each router gives to each expert.

    Args:
        load: Task → router → share of each expert, in [0, 1].
    """
    tasks = sorted(load)
    routers = list(dict.fromkeys(router for task in tasks for router in load[task]))
    experts = max(len(shares) for task in tasks for shares in load[task].values())
    block = experts * _CELL_W + _GAP
    names = _GAP + _LETTER_W * max(map(len, routers))
    width, height = names + block * len(tasks), 40 + len(routers) * _CELL_H
    parts = [
        f'<text x="{names + number * block}" y="14" class="strong">{escape(task)}</text>'
        + "".join(
            f'<text x="{names + number * block + (e + 0.5) * _CELL_W}" y="32" '
            f'text-anchor="middle">{e}</text>'
            for e in range(experts)
        )
        for number, task in enumerate(tasks)
    ]
    for row, router in enumerate(routers):
        y = 38 + row * _CELL_H
        parts.append(f'<text x="0" y="{y + 12}">{escape(router)}</text>')
        for number, task in enumerate(tasks):
            for expert, share in enumerate(load[task].get(router, ())):
                x = names + number * block + expert * _CELL_W
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{_CELL_W - 1}" height="{_CELL_H - 1}" '
                    f'fill-opacity="{share:.3f}"><title>{escape(task)}, {escape(router)}, expert '
                    f"{expert}: {share:.1%}</title></rect>"
                )
    return (
        f'<figure><div class="wide"><svg class="heat" style="width: {width}px" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="Router load">'
        f"{''.join(parts)}</svg>"
        "</div><figcaption>Share of a task's tokens whose first choice an expert is: none is "
        "empty, all is full colour</figcaption></figure>"
    )
