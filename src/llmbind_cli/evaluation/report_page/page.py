"""The page: scores with intervals, gates, histograms, examples, confusion, router load, protocol.

Everything stands in the one file, so that it can be mailed or kept as an artifact of a CI run: no
script, no font, no picture from elsewhere, and a policy that forbids them. Colours follow the
reader's light or dark setting. All that comes from a file is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from llmbind_cli.evaluation.report import DataCard, MetricEntry, Report, ScoringCard
from llmbind_cli.evaluation.report_page import plots
from llmbind_cli.evaluation.report_page.examples import PictureBudget, ends, gallery, is_number
from llmbind_cli.evaluation.report_text import (
    arrow,
    difference_lines,
    gate_rule,
    interval_text,
    value_text,
)
from llmbind_cli.evaluation.scores import FamilyScores
from llmbind_cli.pages import html_page

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_COUNTS = frozenset({"intersection", "union", "union_added"})
_WRONG = 24
"""Wrongly routed requests that are listed."""


@dataclass(frozen=True, kw_only=True)
class ScoredFamily:
    """The metrics of one pass, for the page.

    Attributes:
        scoring: Name of the scoring, or ``None``.
        family: Of the metrics.
        scores: What was found.
    """

    scoring: str | None
    family: str
    scores: FamilyScores

    @property
    def title(self) -> str:
        """The heading."""
        return f"{self.scoring}: {self.family}" if self.scoring else self.family


def report_page(report: Report, families: Sequence[ScoredFamily]) -> str:
    """Return the page.

    Args:
        report: The report.
        families: What it was made of, in the same order.
    """
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    budget = PictureBudget()
    sections = "\n".join(_family(family, budget) for family in families)
    failed = sum(not gate.passed for gate in report.gates)
    state = f"{failed} of {len(report.gates)} gates failed" if report.gates else "no gates"
    facts = ", ".join(f"{name} {version}" for name, version in report.environment.items())
    body = f"""<header>
<h1>llmbind eval</h1>
<p class="{"alarm" if failed else "faint"}">{escape(state)}</p>
</header>
<main>
{_figures(report)}
{_gates(report)}
{sections}
{_protocol(report)}
</main>
<footer class="faint"><p>Seed {report.protocol.seed}; {escape(facts)}</p></footer>"""
    return html_page(title="llmbind eval", policy=_POLICY, style=style, body=body)


def _figures(report: Report) -> str:
    rows = "".join(_figure(name, entry) for name, entry in report.metrics.items())
    level = f"{report.protocol.interval.level:.0%}".replace("%", " %")
    notes = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(note)}</li>"
        for name, entry in report.metrics.items()
        for note in entry.notes
    )
    notes += "".join(f"<li>{escape(line)}</li>" for line in difference_lines(report))
    return (
        '<section><h2>Scores</h2><div class="wide"><table><thead><tr><th scope="col">metric</th>'
        f'<th scope="col" class="number">value</th><th scope="col" class="number">{level} interval'
        '</th><th scope="col" class="bars">from 0 to 1</th><th scope="col" class="number">n</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
        f"{f'<ul>{notes}</ul>' if notes else ''}</section>"
    )


def _figure(name: str, entry: MetricEntry) -> str:
    bar = ""
    if entry.value is not None and entry.interval is not None and 0 <= entry.value <= 1:
        bar = plots.interval_bar(entry.value, entry.interval)
    return (
        f'<tr><th scope="row">{_breakable(name)}&nbsp;'
        f'<span class="faint">{arrow(entry)}</span></th>'
        f'<td class="number">{escape(value_text(entry))}</td>'
        f'<td class="number">{escape(interval_text(entry))}</td><td class="bars">{bar}</td>'
        f'<td class="number">{entry.n}</td></tr>'
    )


def _breakable(name: str) -> str:
    """Escape a name, and let lines break after its slashes and underscores."""
    return escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _gates(report: Report) -> str:
    if not report.gates:
        return ""
    rows = "".join(
        f'<li class="{"passed" if gate.passed else "alarm"}">'
        f"{'passed' if gate.passed else 'failed'}: {escape(gate_rule(gate))}</li>"
        for gate in report.gates
    )
    return f'<section><h2>Gates</h2><ul class="gates">{rows}</ul></section>'


def _family(family: ScoredFamily, budget: PictureBudget) -> str:
    scores = family.scores
    parts = [_histograms(scores.items), _categories(scores.details.get("categories"))]
    if confusion := scores.details.get("confusion"):
        parts.append("<h3>Which task was made of which</h3>" + plots.confusion_table(confusion))
        parts.append(_wrong(family, budget))
    if load := scores.details.get("router_load"):
        parts.append("<h3>Router load per task</h3>" + plots.router_load(load))
    if scores.ranked_by is not None and scores.show is not None:
        column, higher_is_better = scores.ranked_by
        worst, best = ends(scores.items, column, higher_is_better=higher_is_better)
        for heading, rows in (("Worst", worst), ("Best", best)):
            if rows:
                parts.append(f"<h3>{heading} by {escape(column)}</h3>")
                parts.append(gallery(rows, column, scores.show, budget))
    body = "".join(parts)
    return f"<section><h2>{escape(family.title)}</h2>{body}</section>" if body else ""


def _histograms(rows: Sequence[dict[str, Any]]) -> str:
    columns = dict.fromkeys(key for row in rows for key in row if key not in _COUNTS)
    figures = []
    for column in columns:
        values = [float(row[column]) for row in rows if is_number(row.get(column))]
        if len(values) > 1:
            figures.append(plots.histogram(values, name=column))
    return "".join(figures)


def _categories(categories: dict[str, dict[str, float]] | None) -> str:
    if not categories:
        return ""
    names = list(dict.fromkeys(name for figures in categories.values() for name in figures))
    head = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{escape(category)}</th>'
        + "".join(f'<td class="number">{figures.get(name, 0):.4g}</td>' for name in names)
        + "</tr>"
        for category, figures in categories.items()
    )
    return (
        '<h3>By category</h3><div class="wide"><table><thead><tr><th scope="col">category</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _wrong(family: ScoredFamily, budget: PictureBudget) -> str:
    rows = [row for row in family.scores.items if row.get("expected") != row.get("got")]
    if not rows or family.scores.show is None:
        return ""
    shown = [row | {"made": f"{row['got']}, expected {row['expected']}"} for row in rows[:_WRONG]]
    more = f'<p class="faint">and {len(rows) - _WRONG} more</p>' if len(rows) > _WRONG else ""
    cards = gallery(shown, "made", family.scores.show, budget)
    return f"<h3>Routed wrongly</h3>{cards}{more}"


def _protocol(report: Report) -> str:
    cards = "".join(_scoring(scoring) for scoring in report.protocol.scorings)
    recipe = report.protocol.recipe
    named = f"<p>Recipe {escape(recipe.path)}, sha256 {recipe.sha256}</p>" if recipe else ""
    return (
        "<section><h2>Protocol</h2><p>Two figures compare only where all of this is the same.</p>"
        f"{named}{cards}</section>"
    )


def _scoring(scoring: ScoringCard) -> str:
    facts = [(metric.name, metric.definition) for metric in scoring.metrics]
    sides = {
        "predictions": scoring.predictions,
        "references": scoring.references,
        "prompts": scoring.prompts,
    }
    facts += [(side, _data(card)) for side, card in sides.items() if card is not None]
    facts += [("preprocessing", scoring.preprocessing)]
    if scoring.backbone is not None:
        backbone = scoring.backbone
        facts += [("backbone", f"{backbone.name}, {backbone.source}, sha256 {backbone.sha256}")]
    facts += [
        (key, "none" if value is None else str(value)) for key, value in scoring.parameters.items()
    ]
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    heading = f"<h3>{escape(scoring.name)}</h3>" if scoring.name else ""
    return f"{heading}<dl>{rows}</dl>"


def _data(card: DataCard) -> str:
    count = "of unknown count" if card.count is None else f"{card.count} items"
    return f"{card.path} ({card.kind}, {count}, sha256 {card.sha256})"
