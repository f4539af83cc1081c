"""A report for people and for CI systems: a table for terminals, Markdown, JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from llmbind_cli.evaluation.report import DataCard, GateEntry, MetricEntry, Report, ScoringCard

# XML 1.0 has no place for most control characters, not even escaped.
_NO_XML = {code: " " for code in range(0x20) if chr(code) not in "\t\n\r"}


def table(report: Report) -> str:
    """Return the figures as a table for a terminal."""
    rows = [("metric", "", "value", "95 % interval", "n")]
    rows += [
        (name, arrow(entry), value_text(entry), interval_text(entry), str(entry.n))
        for name, entry in report.metrics.items()
    ]
    lines = aligned(rows, left=(0, 1))
    lines += [
        f"{'passed' if gate.passed else 'FAILED'}: {gate_rule(gate)}" for gate in report.gates
    ]
    return "\n".join([*lines, *difference_lines(report)])


def difference_lines(report: Report) -> list[str]:
    """Word the differences between the scorings of a recipe, a line each."""
    lines = []
    for name, entry in report.details.get("differences", {}).items():
        if entry["difference"] is None:
            lines.append(f"{name}: none")
            continue
        words = f"{name}: {entry['difference']:+.4g}"
        if entry["interval"] is not None:
            words += " ({:+.3g} – {:+.3g}, {})".format(*entry["interval"], entry["method"])
        lines.append(f"{words}: {entry['verdict']}" if entry["verdict"] else words)
    return lines


def aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> list[str]:
    """Return the lines of a table for a terminal.

    Args:
        rows: Texts, as many in each.
        left: Columns that are set to the left; the others are set to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown(report: Report) -> str:
    """Return the report for a comment on a pull request."""
    lines = [
        f"## llmbind eval{failed_gates(report.gates)}",
        "",
        "| metric | value | 95 % interval | n |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {cell(name)} {arrow(entry)} | {value_text(entry)} | {interval_text(entry)} | "
        f"{entry.n} |"
        for name, entry in report.metrics.items()
    ]
    lines += gate_table(report.gates, heading="gate")
    notes = [
        f"- {cell(name)}: {cell(note)}"
        for name, entry in report.metrics.items()
        for note in entry.notes
    ]
    lines += ["", *notes] if notes else []
    differences = [f"- {cell(line)}" for line in difference_lines(report)]
    lines += ["", *differences] if differences else []
    for scoring in report.protocol.scorings:
        lines += ["", *_protocol_lines(scoring)]
    facts = ", ".join(f"{name} {version}" for name, version in report.environment.items())
    lines += ["", f"Seed {report.protocol.seed}; {cell(facts)}."]
    return "\n".join(lines) + "\n"


def failed_gates(gates: Sequence[GateEntry]) -> str:
    """Tell how many gates failed, for the end of a heading; empty where none did."""
    failed = sum(not gate.passed for gate in gates)
    return f": {failed} of {len(gates)} gates failed" if failed else ""


def gate_table(gates: Sequence[GateEntry], *, heading: str) -> list[str]:
    """Return gates as the lines of a Markdown table after an empty one; none without gates."""
    if not gates:
        return []
    rows = [
        f"| {cell(gate.metric)} {gate.rule} {gate.bound:.6g} | {_gate_value(gate)} | "
        f"{'passed' if gate.passed else '**failed**'} |"
        for gate in gates
    ]
    return ["", f"| {heading} | value | |", "|---|---:|---|", *rows]


def junit(report: Report) -> bytes:
    """Return JUnit XML: a test case for each gate, and for each figure that has none."""
    gated = {gate.metric for gate in report.gates}
    free = [name for name in report.metrics if name not in gated]
    failed = sum(not gate.passed for gate in report.gates)
    counts = {
        "name": "llmbind eval",
        "tests": str(len(report.gates) + len(free)),
        "failures": str(failed),
        "errors": "0",
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", counts)
    for gate in report.gates:
        case = ET.SubElement(
            suite, "testcase", {"classname": "llmbind.eval", "name": _xml(_rule_name(gate))}
        )
        if not gate.passed:
            ET.SubElement(case, "failure", {"message": _xml(gate_rule(gate))})
        _system_out(case, gate.metric, report)
    for name in free:
        case = ET.SubElement(suite, "testcase", {"classname": "llmbind.eval", "name": _xml(name)})
        _system_out(case, name, report)
    ET.indent(root)
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _system_out(case: ET.Element, name: str, report: Report) -> None:
    entry = report.metrics.get(name)
    if entry is not None:
        words = [f"{name} = {value_text(entry)}, n = {entry.n}", *entry.notes]
        ET.SubElement(case, "system-out").text = _xml("\n".join(words))


def _protocol_lines(scoring: ScoringCard) -> list[str]:
    lines = [f"**Protocol{f' of {cell(scoring.name)}' if scoring.name else ''}**", ""]
    lines += [f"- {cell(metric.name)}: {cell(metric.definition)}" for metric in scoring.metrics]
    lines += [f"- predictions: {_data(scoring.predictions)}"]
    if scoring.references is not None:
        lines += [f"- references: {_data(scoring.references)}"]
    if scoring.prompts is not None:
        lines += [f"- prompts: {_data(scoring.prompts)}"]
    lines += [f"- preprocessing: {cell(scoring.preprocessing)}"]
    if scoring.backbone is not None:
        lines += [f"- backbone: {scoring.backbone.name}, sha256 `{scoring.backbone.sha256}`"]
    settings = ", ".join(f"{key} = {value}" for key, value in scoring.parameters.items())
    return [*lines, f"- settings: {cell(settings)}"] if settings else lines


def _data(card: DataCard) -> str:
    count = "count unknown" if card.count is None else card.count
    return f"{cell(card.path)} ({card.kind}, {count}, sha256 `{card.sha256}`)"


def cell(text: str) -> str:
    """Keep a text from ending a cell or a line, and from being read as HTML or a mention."""
    flat = " ".join(text.split()).replace("\\", "\\\\")
    for character, written in (("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("@", "&#64;")):
        flat = flat.replace(character, written)
    return flat


def _xml(text: str) -> str:
    return text.translate(_NO_XML).encode("utf-8", "replace").decode("utf-8")


def arrow(entry: MetricEntry) -> str:
    """Return ↑ where more is better, else ↓."""
    return "↑" if entry.higher_is_better else "↓"


def value_text(entry: MetricEntry) -> str:
    """Word a figure, with its spread where it has one."""
    if entry.value is None:
        return "∞" if any(note.startswith("infinite") for note in entry.notes) else "none"
    spread = f" ± {entry.std:.2g}" if entry.std is not None else ""
    return number(entry.value) + spread


def number(value: float | None) -> str:
    """Word a figure."""
    return "none" if value is None else f"{value:.6g}"


def interval_text(entry: MetricEntry) -> str:
    """Word an interval; empty where there is none."""
    return "" if entry.interval is None else "{:.4g} – {:.4g}".format(*entry.interval)


def _rule_name(gate: GateEntry) -> str:
    return f"{gate.metric} {gate.rule} {gate.bound:.6g}"


def gate_rule(gate: GateEntry) -> str:
    """Word a gate and its figure."""
    return f"{gate.metric} is {_gate_value(gate)}, must be {gate.rule} {gate.bound:.6g}"


def _gate_value(gate: GateEntry) -> str:
    """Word a gate's figure; JSON has no other number, and of these only an infinite one passes."""
    if gate.value is None:
        return "infinite" if gate.passed else "not a number"
    return number(gate.value)
