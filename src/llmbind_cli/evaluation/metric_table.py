"""THE table of metrics: name, direction, what it needs, and where its definition comes from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmbind_cli.errors import UsageError

Family = Literal["masks", "pairs", "features", "routing"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As reports, gates and ``--metric`` spell it.
        family: Which inputs it is computed from; one family is computed in one pass.
        higher_is_better: Its direction.
        definition: What it is, in one line, with its source.
    """

    name: str
    family: Family
    higher_is_better: bool
    definition: str


_ALL = (
    Metric(
        name="cIoU",
        family="masks",
        higher_is_better=True,
        definition="sum of intersections / sum of unions over all expressions (LISA, 2308.00692)",
    ),
    Metric(
        name="gIoU",
        family="masks",
        higher_is_better=True,
        definition="mean intersection / union over expressions, 1 where both masks are empty "
        "(LISA, 2308.00692)",
    ),
    Metric(
        name="PSNR",
        family="pairs",
        higher_is_better=True,
        definition="mean over pairs of 10 log10(255² / mean squared error), in dB, 8-bit sRGB",
    ),
    Metric(
        name="SSIM",
        family="pairs",
        higher_is_better=True,
        definition="mean over pairs of the structural similarity, 8-bit sRGB, Gaussian window "
        "11 × 11, sigma 1.5, mirrored borders (torchmetrics 1.9)",
    ),
    Metric(
        name="FD-effnet-lite0",
        family="features",
        higher_is_better=False,
        definition="Fréchet distance (1706.08500, Eq. 6) of EfficientNet-lite0 features, float64; "
        "not FID, which uses Inception-v3",
    ),
    Metric(
        name="KID-effnet-lite0",
        family="features",
        higher_is_better=False,
        definition="kernel distance (1801.01401) of EfficientNet-lite0 features, polynomial kernel "
        "of degree 3, mean over random subsets (torch-fidelity); not KID, which uses Inception-v3",
    ),
    Metric(
        name="precision",
        family="features",
        higher_is_better=True,
        definition="improved precision, k = 3 (1904.06991), of EfficientNet-lite0 features",
    ),
    Metric(
        name="recall",
        family="features",
        higher_is_better=True,
        definition="improved recall, k = 3 (1904.06991), of EfficientNet-lite0 features",
    ),
    Metric(
        name="routing",
        family="routing",
        higher_is_better=True,
        definition="share of requests whose plan makes exactly the expected calls in their order",
    ),
    Metric(
        name="false_calls",
        family="routing",
        higher_is_better=False,
        definition="share of plain-talk requests whose plan makes a call",
    ),
    Metric(
        name="words_kept",
        family="routing",
        higher_is_better=True,
        definition="share of content words that stand in the prompts of rightly routed requests",
    ),
    Metric(
        name="prompts_whole",
        family="routing",
        higher_is_better=True,
        definition="share of the prompts of rightly routed requests that keep all content words",
    ),
)
METRICS = {metric.name: metric for metric in _ALL}


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """Look metrics up by name; ``routing`` brings the other figures of routing along.

    Args:
        names: Names as in the table, each once; case matters, as ``KID`` is not ``kid``.

    Raises:
        UsageError: There is no such metric: the nearest one is named; or none or one twice.
    """
    found: dict[str, Metric] = {}
    for name in names:
        metric = METRICS.get(name)
        if metric is None:
            raise UsageError(f"--metric {name}: no such metric{nearest_metric(name)}")
        if name in found:
            raise UsageError(f"--metric {name}: given twice")
        found[name] = metric
    if not found:
        raise UsageError(f"--metric: name at least one of {', '.join(METRICS)}")
    if "routing" in found:
        found |= {metric.name: metric for metric in _ALL if metric.family == "routing"}
    return list(found.values())


def nearest_metric(name: str, known: Iterable[str] = METRICS) -> str:
    """Word a hint at the metric that a misspelt name may mean."""
    by_lower = {metric.lower(): metric for metric in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]}?" if close else f"; known: {', '.join(known)}"
