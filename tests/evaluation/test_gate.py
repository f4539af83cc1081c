"""Gates: direction, form, and all failures together."""

from __future__ import annotations

import math

import pytest

from llmbind_cli.errors import GateFailed, UsageError
from llmbind_cli.evaluation.gate import (
    Gate,
    check_gates,
    parse_gate,
    raise_if_failed,
    require_figures,
)


def test_the_direction_is_the_metric_s():
    assert parse_gate("--fail-under", "cIoU=0.75") == Gate(
        metric="cIoU", rule="at least", bound=0.75
    )
    over = parse_gate("--fail-over", "faces/FD-effnet-lite0=1e1")
    assert over == Gate(metric="faces/FD-effnet-lite0", rule="at most", bound=10.0)
    with pytest.raises(UsageError, match=r"better when lower; use --fail-over"):
        parse_gate("--fail-under", "FD-effnet-lite0=12")
    with pytest.raises(UsageError, match=r"better when higher; use --fail-under"):
        parse_gate("--fail-over", "cIoU=0.5")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cIoU", "form NAME=VALUE"),
        ("=3", "form NAME=VALUE"),
        ("cIoU=high", "'high' is no number"),
        ("cIoU=nan", "must be a number"),
        ("ciou=1", "did you mean cIoU"),
        ("IoU-lite=12", "no such metric"),
    ],
)
def test_what_is_no_gate(text, problem):
    with pytest.raises(UsageError, match=problem):
        parse_gate("--fail-under", text)


def test_a_bound_may_be_met_and_no_number_never_passes():
    under, over = parse_gate("--fail-under", "cIoU=0.5"), parse_gate("--fail-over", "false_calls=0")
    for value, passed in ((0.5, True), (0.4999999, False), (math.nan, False), (math.inf, True)):
        (result,) = check_gates([under], {"cIoU": value})
        assert result.passed is passed
    for value, passed in ((0.0, True), (1e-9, False), (math.nan, False)):
        (result,) = check_gates([over], {"false_calls": value})
        assert result.passed is passed
    assert not check_gates([under], {})[0].passed


def test_all_failures_are_told():
    gates = [parse_gate("--fail-under", text) for text in ("cIoU=0.9", "gIoU=0.1", "SSIM=0.8")]
    results = check_gates(gates, {"cIoU": 0.5, "gIoU": 0.5, "SSIM": 0.5})
    with pytest.raises(GateFailed) as caught:
        raise_if_failed(results)
    assert str(caught.value).splitlines() == [
        "2 gates failed",
        "  cIoU is 0.5, must be at least 0.9",
        "  SSIM is 0.5, must be at least 0.8",
    ]
    raise_if_failed(results[1:2])
    with pytest.raises(GateFailed, match=r"cIoU is not a number, must be at least 0\.9"):
        raise_if_failed(check_gates(gates[:1], {}))


def test_a_gate_needs_its_figure():
    with pytest.raises(UsageError, match="a gate on PSNR, but this run gives cIoU, gIoU only"):
        require_figures([parse_gate("--fail-under", "PSNR=30")], ["cIoU", "gIoU"])
