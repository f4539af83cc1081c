"""A comparison for people: a table for terminals, Markdown for a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmbind_cli.evaluation.report_text import (
    aligned,
    cell,
    failed_gates,
    gate_rule,
    gate_table,
    number,
)

if TYPE_CHECKING:
    from llmbind_cli.evaluation.comparison import Comparison, DifferenceEntry


def table(comparison: Comparison) -> str:
    """Return the differences as a table for a terminal."""
    rows = [("metric", "", "A", "B", "B − A", "95 % interval", "")]
    rows += [
        (name, _arrow(e), number(e.a), number(e.b), _difference(e), _interval(e), _words(e))
        for name, e in comparison.metrics.items()
    ]
    lines = aligned(rows, left=(0, 1, 6))
    lines += [
        f"{'passed' if gate.passed else 'FAILED'}: difference of {gate_rule(gate)}"
        for gate in comparison.gates
    ]
    lines += _left_out(comparison)
    return "\n".join(lines)


def markdown(comparison: Comparison) -> str:
    """Return the comparison for a comment on a pull request."""
    lines = [
        f"## llmbind eval, B minus A{failed_gates(comparison.gates)}",
        "",
        "| metric | A | B | B − A | 95 % interval | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {cell(name)} {_arrow(e)} | {number(e.a)} | {number(e.b)} | {_difference(e)} | "
        f"{_interval(e)} | {_bold(e)} |"
        for name, e in comparison.metrics.items()
    ]
    lines += gate_table(comparison.gates, heading="gate on B − A")
    notes = [
        f"- {cell(name)}: {cell(note)}"
        for name, entry in comparison.metrics.items()
        for note in [*([f"interval {entry.method}"] if entry.method else []), *entry.notes]
    ]
    lines += ["", *notes] if notes else []
    if comparison.protocol_differences:
        lines += ["", "**Different protocols**", ""]
        lines += [f"- {cell(line)}" for line in comparison.protocol_differences]
    left_out = [cell(line) for line in _left_out(comparison)]
    lines += ["", *left_out] if left_out else []
    lines += [""]
    for side, card in (("A", comparison.a), ("B", comparison.b)):
        lines += [f"{side}: {cell(card.path)}, sha256 `{card.sha256}`.  "]
    return "\n".join(lines) + "\n"


def _left_out(comparison: Comparison) -> list[str]:
    sides = (("A", comparison.only_in_a), ("B", comparison.only_in_b))
    return [f"only in {side}: {', '.join(names)}" for side, names in sides if names]


def _arrow(entry: DifferenceEntry) -> str:
    return "↑" if entry.higher_is_better else "↓"


def _difference(entry: DifferenceEntry) -> str:
    return "none" if entry.difference is None else f"{entry.difference:+.4g}"


def _interval(entry: DifferenceEntry) -> str:
    if entry.interval is None:
        return ""
    star = "" if entry.method == "paired bootstrap over items" else " *"
    return "{:+.3g} – {:+.3g}".format(*entry.interval) + star


def _words(entry: DifferenceEntry) -> str:
    return entry.verdict or "no interval"


def _bold(entry: DifferenceEntry) -> str:
    words = _words(entry)
    return f"**{words}**" if words == "worse" else words
