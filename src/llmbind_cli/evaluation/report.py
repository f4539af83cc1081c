"""The report of a run: its models are the schema of ``report.json``, version 1.

``docs/eval-report.schema.json`` is this schema as others read it; a test compares the two. A figure
that is infinite or no number stands as ``null`` with a note, as JSON has no such numbers.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmbind_cli import __version__
from llmbind_cli.evaluation.gate import GateResult
from llmbind_cli.evaluation.metric_table import METRICS
from llmbind_cli.evaluation.scores import Score
from llmbind_cli.metrics.bootstrap import LEVEL, RESAMPLES

_PACKAGES = ("torch", "numpy", "pillow")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataCard(_Part):
    """Files that were scored, or scored against."""

    path: str
    kind: Literal["folder", "manifest", "lines", "rle", "statistics"]
    sha256: str = Field(
        description="of the lines HASH  ID of all files; of a file of lines, run-length encoded "
        "masks or statistics its own"
    )
    count: int | None = Field(description="null for statistics that do not tell it")


class Backbone(_Part):
    """The network behind a figure."""

    name: str
    source: str
    sha256: str


class MetricCard(_Part):
    """What a figure means."""

    name: str
    definition: str


class ScoringCard(_Part):
    """How the figures of one pair of inputs came about."""

    name: str | None
    metrics: list[MetricCard]
    predictions: DataCard
    references: DataCard | None
    prompts: DataCard | None = None
    preprocessing: str
    backbone: Backbone | None
    parameters: dict[str, Any]


class RecipeCard(_Part):
    """The recipe that was run."""

    path: str
    sha256: str


class IntervalCard(_Part):
    """What the intervals of the report are."""

    method: str = "percentile bootstrap over items"
    level: float = LEVEL
    resamples: int = RESAMPLES


class Protocol(_Part):
    """What must be equal for two reports to be comparable."""

    llmbind: str
    seed: int
    recipe: RecipeCard | None
    interval: IntervalCard
    scorings: list[ScoringCard]


class MetricEntry(_Part):
    """One figure."""

    value: float | None
    n: int
    higher_is_better: bool
    interval: tuple[float, float] | None
    std: float | None
    notes: list[str]


class GateEntry(_Part):
    """One gate and whether the figure passed it."""

    metric: str
    rule: Literal["at least", "at most"]
    bound: float
    value: float | None
    passed: bool


class Report(_Part):
    """The whole report."""

    schema_version: Literal["llmbind-eval-report/1"] = "llmbind-eval-report/1"
    protocol: Protocol
    metrics: dict[str, MetricEntry]
    gates: list[GateEntry]
    details: dict[str, Any]
    environment: dict[str, str]


def metric_key(scoring: str | None, metric: str) -> str:
    """Return a figure's name in a report: that of a recipe's scoring stands before the metric's."""
    return f"{scoring}/{metric}" if scoring else metric


def metric_entry(metric: str, score: Score) -> MetricEntry:
    """Return a figure as the report has it.

    Args:
        metric: Its name in the table of metrics.
        score: The figure.
    """
    return MetricEntry(
        value=_finite(score.value),
        n=score.n,
        higher_is_better=METRICS[metric].higher_is_better,
        interval=score.interval,
        std=score.std,
        notes=list(score.notes),
    )


def gate_entries(results: Sequence[GateResult]) -> list[GateEntry]:
    """Return the gates as the report has them."""
    return [
        GateEntry(
            metric=result.gate.metric,
            rule=result.gate.rule,
            bound=result.gate.bound,
            value=_finite(result.value),
            passed=result.passed,
        )
        for result in results
    ]


def environment() -> dict[str, str]:
    """Return the versions that a figure's last digits may depend on."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "llmbind": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    } | versions


def clean(value: Any) -> Any:
    """Escape what cannot be written as UTF-8, in texts of any depth.

    File names may hold any bytes, and JSON input lone surrogates; both reach a report as such.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {clean(key): clean(inner) for key, inner in value.items()}
    return [clean(inner) for inner in value] if isinstance(value, list) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
