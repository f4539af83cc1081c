"""Gates: bounds that figures must keep. The direction is the metric's, so none can be misread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from llmbind_cli.errors import GateFailed, UsageError
from llmbind_cli.evaluation.metric_table import METRICS, nearest_metric

Rule = Literal["at least", "at most"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A bound.

    Attributes:
        metric: Name of the figure in the report; in recipes ``SCORING/METRIC``.
        rule: ``at least`` for metrics of which more is better, else ``at most``.
        bound: The figure may be equal to it.
    """

    metric: str
    rule: Rule
    bound: float


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """A bound and the figure.

    Attributes:
        gate: The bound.
        value: The figure; may be infinite.
    """

    gate: Gate
    value: float

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the bound; a figure that is no number never does."""
        if self.gate.rule == "at least":
            return self.value >= self.gate.bound
        return self.value <= self.gate.bound


def make_gate(flag: str, metric: str, bound: float) -> Gate:
    """Check a bound against the direction of its metric.

    Args:
        flag: ``--fail-under`` or ``--fail-over``, or the recipe key of that name.
        metric: Name of the figure; what follows its last slash is that of the metric.
        bound: The bound.

    Raises:
        UsageError: There is no such metric, the bound is no number, or the flag would fail figures
            for being good.
    """
    known = METRICS.get(metric.rpartition("/")[2])
    if known is None:
        raise UsageError(f"{flag} {metric}: no such metric{nearest_metric(metric)}")
    if not math.isfinite(bound):
        raise UsageError(f"{flag} {metric}: the bound must be a number, got {bound}")
    under = flag.replace("_", "-").endswith("fail-under")
    if under != known.higher_is_better:
        direction, other = ("higher", "under") if known.higher_is_better else ("lower", "over")
        raise UsageError(
            f"{flag} {metric}: {known.name} is better when {direction}; use "
            f"{flag.replace('under', other) if under else flag.replace('over', other)}"
        )
    return Gate(metric=metric, rule="at least" if under else "at most", bound=bound)


def parse_gate(flag: str, text: str) -> Gate:
    """Read ``NAME=VALUE`` of the command line; errors as :func:`make_gate`."""
    metric, equals, number = text.rpartition("=")
    if not equals or not metric:
        raise UsageError(f"{flag} {text}: must have the form NAME=VALUE, such as cIoU=0.75")
    try:
        bound = float(number)
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {number!r} is no number") from error
    return make_gate(flag, metric, bound)


def require_figures(gates: Iterable[Gate], figures: Iterable[str]) -> None:
    """Refuse a gate on a figure that the run does not compute.

    Raises:
        UsageError: Names the gate and the figures that there are.
    """
    known = list(figures)
    for gate in gates:
        if gate.metric not in known:
            raise UsageError(f"a gate on {gate.metric}, but this run gives {', '.join(known)} only")


def check_gates(gates: Iterable[Gate], figures: Mapping[str, float]) -> list[GateResult]:
    """Compare figures with their bounds. A figure that had no items is no number and fails."""
    return [GateResult(gate=gate, value=figures.get(gate.metric, math.nan)) for gate in gates]


def raise_if_failed(results: Iterable[GateResult]) -> None:
    """End the run if a figure broke its bound.

    Raises:
        GateFailed: Lists all of them (fault 53).
    """
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    lines = [
        f"{result.gate.metric} is {_worded(result.value)}, must be {result.gate.rule} "
        f"{result.gate.bound:.6g}"
        for result in failed
    ]
    if len(lines) == 1:
        raise GateFailed(lines[0])
    raise GateFailed(f"{len(lines)} gates failed" + "".join(f"\n  {line}" for line in lines))


def _worded(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "infinite" if math.isinf(value) else f"{value:.6g}"
