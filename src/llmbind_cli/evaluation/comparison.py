"""Two reports beside each other: what changed from A to B, and how sure that is.

Where both have their items and these have the same ids, the difference is bounded by a bootstrap
over pairs of items. Else it is put together from both intervals (Zou and Donner, Statistics in
Medicine 2008, section 2), which takes the two runs for independent and is wider where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, PolicyError
from llmbind_cli.evaluation import comparison_text
from llmbind_cli.evaluation.gate import Gate, check_gates, raise_if_failed, require_figures
from llmbind_cli.evaluation.item_figures import ITEMS, ItemQuotient, item_quotient, read_items
from llmbind_cli.evaluation.metric_table import METRICS
from llmbind_cli.evaluation.report import (
    GateEntry,
    MetricEntry,
    Report,
    gate_entries,
    metric_key,
)
from llmbind_cli.evaluation.report_folder import prepare_folder, write_files
from llmbind_cli.metrics.bootstrap import paired_bootstrap_interval
from llmbind_cli.weights.hashes import sha256_file

Method = Literal["paired bootstrap over items", "from the two intervals"]
Verdict = Literal["better", "worse", "no clear change", "same"]

COMPARISON_FILES = ("comparison.json", "comparison.md")

_OWN_SIDE = ("predictions", "path")
"""What may differ: the predictions are what is compared, and paths say nothing of content."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReportCard(_Part):
    """One of the two reports."""

    path: str
    sha256: str
    llmbind: str


class DifferenceEntry(_Part):
    """One figure in both reports; ``difference`` is B minus A."""

    a: float | None
    b: float | None
    difference: float | None
    interval: tuple[float, float] | None
    method: Method | None
    n: int
    higher_is_better: bool
    verdict: Verdict | None
    notes: list[str]


class Comparison(_Part):
    """The whole comparison."""

    schema_version: Literal["llmbind-eval-comparison/1"] = "llmbind-eval-comparison/1"
    a: ReportCard
    b: ReportCard
    protocol_differences: list[str]
    metrics: dict[str, DifferenceEntry]
    only_in_a: list[str]
    only_in_b: list[str]
    gates: list[GateEntry]


def run_comparison(
    a: Path,
    b: Path,
    gates: Sequence[Gate],
    *,
    allow_different: bool,
    seed: int,
    report: Path | None,
) -> Comparison:
    """Compare two reports, print the comparison, and hold the differences against their gates.

    Args:
        a: ``report.json`` of before.
        b: That of after.
        gates: Bounds of differences.
        allow_different: Compare although the protocols differ.
        seed: Of the bootstrap.
        report: Folder for ``comparison.json`` and ``comparison.md``, or ``None``.

    Raises:
        InputDataError: A file is no report, items do not belong to their report, or the reports
            have no figure in common.
        PolicyError: The protocols differ; every difference is listed.
        OutputError: The folder cannot be written.
        UsageError: A gate on a figure that is not in both.
        GateFailed: A difference broke its bound.
    """
    if report is not None:
        prepare_folder(report)
    comparison = compare(a, b, allow_different=allow_different, seed=seed)
    require_figures(gates, comparison.metrics)
    values = {name: entry.difference for name, entry in comparison.metrics.items()}
    results = check_gates(
        gates, {name: value for name, value in values.items() if value is not None}
    )
    comparison = comparison.model_copy(update={"gates": gate_entries(results)})
    for line in comparison.protocol_differences:
        console.warn(f"different protocols: {line}")
    if report is not None:
        contents = (
            comparison.model_dump_json(indent=2).encode() + b"\n",
            comparison_text.markdown(comparison).encode("utf-8", "replace"),
        )
        write_files(report, dict(zip(COMPARISON_FILES, contents, strict=True)))
    console.result(
        comparison.model_dump_json() if console.json else comparison_text.table(comparison)
    )
    raise_if_failed(results)
    return comparison


def compare(a: Path, b: Path, *, allow_different: bool, seed: int) -> Comparison:
    """Compare two reports; arguments and errors as for :func:`run_comparison`."""
    before, after = _read(a), _read(b)
    differences = _protocol_differences(before, after)
    if differences and not allow_different:
        listed = "".join(f"\n  {line}" for line in differences)
        raise PolicyError(
            f"{a} and {b} came about in different ways, so their figures do not compare; "
            f"--allow-different-protocols compares them all the same{listed}"
        )
    shared = [name for name in before.metrics if name in after.metrics]
    if not shared:
        raise InputDataError(f"{a} and {b} have no figure in common")
    rows = read_items(a), read_items(b)
    return Comparison(
        a=_card(a, before),
        b=_card(b, after),
        protocol_differences=differences,
        metrics={
            name: _entry(
                (before.metrics[name], after.metrics[name]),
                _quotients(name, rows, (a, b), (before, after)),
                seed,
            )
            for name in shared
        },
        only_in_a=[name for name in before.metrics if name not in after.metrics],
        only_in_b=[name for name in after.metrics if name not in before.metrics],
        gates=[],
    )


def contrast(
    keys: tuple[str, str],
    entries: Mapping[str, MetricEntry],
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int,
) -> DifferenceEntry:
    """Subtract a figure of one scoring from that of another scoring of the same run.

    Args:
        keys: Names of both figures, the one that is subtracted first.
        entries: Name → figure.
        rows: The items of the run.
        seed: Of the bootstrap.
    """
    before, after = (
        item_quotient(rows, scoring=scoring or None, family=METRICS[m].family, metric=m)
        for scoring, _, m in (key.rpartition("/") for key in keys)
    )
    paired = None
    if before is not None and after is not None and before.ids == after.ids:
        paired = before, after
    return _entry((entries[keys[0]], entries[keys[1]]), paired, seed)


def _read(path: Path) -> Report:
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputDataError(f"{path}: is no report of eval: {place}: {first['msg']}") from error


def _card(path: Path, report: Report) -> ReportCard:
    return ReportCard(
        path=str(path).encode("utf-8", "backslashreplace").decode(),
        sha256=sha256_file(path),
        llmbind=report.protocol.llmbind,
    )


def _protocol_differences(a: Report, b: Report) -> list[str]:
    """List every leaf of the protocols of the shared figures that differs, with the figures."""
    found: dict[str, list[str]] = {}
    sides = [_protocols(report) for report in (a, b)]
    for figure in [name for name in sides[0] if name in sides[1]]:
        cards = [side[figure] for side in sides]
        for key in dict.fromkeys([*cards[0], *cards[1]]):
            values = [card.get(key, "not there") for card in cards]
            if values[0] != values[1]:
                line = f"{key}: {values[0]} in A, {values[1]} in B"
                found.setdefault(line, []).append(figure)
    # The first entry is the run's own, and holds for all figures.
    return [line + (f" ({', '.join(names)})" if names[0] else "") for line, names in found.items()]


def _protocols(report: Report) -> dict[str, dict[str, Any]]:
    """What each figure depends on, leaf by leaf; under an empty name what all depend on."""
    # The recipe only says which scorings there are, and these are compared one by one.
    run = report.protocol.model_dump(exclude={"recipe", "scorings"})
    cards = {"": dict(_leaves(run, ""))}
    for scoring in report.protocol.scorings:
        card = dict(_leaves(scoring.model_dump(exclude={"predictions", "name", "metrics"}), ""))
        card.pop("backbone.source", None)  # where weights lay; their hash tells which they are
        for metric in scoring.metrics:
            name = metric_key(scoring.name, metric.name)
            if name in report.metrics:
                cards[name] = card | {"definition": metric.definition}
    return cards


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        if name not in _OWN_SIDE:
            yield from _leaves(inner, f"{key}.{name}" if key else name)


def _quotients(
    name: str,
    rows: tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None],
    paths: tuple[Path, Path],
    reports: tuple[Report, Report],
) -> tuple[ItemQuotient, ItemQuotient] | None:
    """Take a figure of both reports apart, where both have the same items."""
    scoring, _, metric = name.rpartition("/")
    family = METRICS[metric].family if metric in METRICS else ""
    found = []
    for own, path, report in zip(rows, paths, reports, strict=True):
        if own is None:
            return None
        quotient = item_quotient(own, scoring=scoring or None, family=family, metric=metric)
        value = report.metrics[name].value
        if quotient is None or value is None:
            return None
        if not math.isclose(quotient.value, value, rel_tol=1e-6, abs_tol=1e-4):
            raise InputDataError(
                f"{path.with_name(ITEMS)}: gives {quotient.value:.6g} for {name}, and {path} says "
                f"{value:.6g}; the items are those of another run"
            )
        found.append(quotient)
    first, second = found
    return (first, second) if first.ids == second.ids else None


def _entry(
    entries: tuple[MetricEntry, MetricEntry],
    quotients: tuple[ItemQuotient, ItemQuotient] | None,
    seed: int,
) -> DifferenceEntry:
    a, b = entries
    difference: float | None = None
    interval: tuple[float, float] | None = None
    method: Method | None = None
    notes = [f"{side}: {note}" for side, e in (("A", a), ("B", b)) for note in e.notes]
    if a.value is not None and b.value is not None:
        difference = b.value - a.value
        if quotients is not None and len(quotients[0].ids) > 1:
            method = "paired bootstrap over items"
            first, second = ((q.tops, q.bottoms) for q in quotients)
            interval = paired_bootstrap_interval(first, second, seed=seed)
        elif a.interval is not None and b.interval is not None:
            method = "from the two intervals"
            interval = _of_intervals((a.value, a.interval), (b.value, b.interval))
            notes.append("not paired: the items of both are not there, or are not the same")
    if a.n != b.n:
        notes.append(f"taken over {a.n} items in A and {b.n} in B")
    return DifferenceEntry(
        a=a.value,
        b=b.value,
        difference=difference,
        interval=interval,
        method=method,
        n=min(a.n, b.n),
        higher_is_better=b.higher_is_better,
        verdict=_verdict(difference, interval, higher_is_better=b.higher_is_better),
        notes=notes,
    )


def _of_intervals(
    a: tuple[float, tuple[float, float]], b: tuple[float, tuple[float, float]]
) -> tuple[float, float]:
    (value_a, (low_a, high_a)), (value_b, (low_b, high_b)) = a, b
    difference = value_b - value_a
    # Zou and Donner (2008), Eq. (5)
    return (
        difference - math.hypot(value_b - low_b, high_a - value_a),
        difference + math.hypot(high_b - value_b, value_a - low_a),
    )


def _verdict(
    difference: float | None, interval: tuple[float, float] | None, *, higher_is_better: bool
) -> Verdict | None:
    if difference == 0:
        return "same"
    if difference is None or interval is None:
        return None
    if interval[0] <= 0 <= interval[1]:
        return "no clear change"
    return "better" if (difference > 0) == higher_is_better else "worse"
