"""Reports: the published schema, hostile names in Markdown and XML."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

from llmbind_cli.evaluation import report_text
from llmbind_cli.evaluation.metric_table import METRICS
from llmbind_cli.evaluation.report import (
    DataCard,
    GateEntry,
    IntervalCard,
    MetricCard,
    MetricEntry,
    Protocol,
    Report,
    ScoringCard,
    environment,
)


def make_report(path: str = "made") -> Report:
    data = DataCard(path=path, kind="folder", sha256="0" * 64, count=3)
    card = ScoringCard(
        name=None,
        metrics=[MetricCard(name="cIoU", definition="…")],
        predictions=data,
        references=data,
        preprocessing="none",
        backbone=None,
        parameters={},
    )
    entry = MetricEntry(
        value=0.5, n=3, higher_is_better=True, interval=(0.4, 0.6), std=None, notes=[f"of {path}"]
    )
    gate = GateEntry(metric="cIoU", rule="at least", bound=0.6, value=0.5, passed=False)
    return Report(
        protocol=Protocol(
            llmbind="0.1.0", seed=0, recipe=None, interval=IntervalCard(), scorings=[card]
        ),
        metrics={"cIoU": entry, "gIoU": entry},
        gates=[gate],
        details={},
        environment=environment(),
    )


def test_the_published_schema_is_that_of_the_code(root):
    published = json.loads((root / "docs" / "eval-report.schema.json").read_text())
    assert published == Report.model_json_schema()


def test_a_report_is_read_again_as_it_was():
    report = make_report()
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_hostile_names_stay_text():
    name = "a|b <script>x</script> `c` @everyone\n\x00# head \ud800"
    report = make_report(name)
    text = report_text.markdown(report)
    rows = [line for line in text.splitlines() if "script" in line]
    assert rows
    for row in rows:
        assert "a\\|b &lt;script>x&lt;/script> \\`c\\` &#64;everyone" in row
    assert "\n# head" not in text
    root = ET.fromstring(report_text.junit(report))  # noqa: S314  our own text
    assert [case.get("name") for case in root.iter("testcase")] == ["cIoU at least 0.6", "gIoU"]
    (failure,) = root.iter("failure")
    assert failure.get("message") == "cIoU is 0.5, must be at least 0.6"


def test_the_table_of_metrics_is_documented(root):
    page = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| `")]
    documented = {row[1].strip(" `"): row[2].strip() for row in rows if row[2].strip() in "↑↓"}
    assert documented == {
        name: "↑" if metric.higher_is_better else "↓" for name, metric in METRICS.items()
    }
