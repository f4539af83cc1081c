"""``llmbind eval --save-stats`` without ``--pred``: the statistics of references alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.console import console
from llmbind_cli.errors import UsageError
from llmbind_cli.evaluation.media_set import read_media_set
from llmbind_cli.evaluation.metric_table import find_metrics
from llmbind_cli.evaluation.score_family import grouped, network_settings

if TYPE_CHECKING:
    from llmbind_cli.evaluation.run import EvalSettings


def save_statistics(metrics: Sequence[str], references: Path, settings: EvalSettings) -> None:
    """Write the statistics of the references' features.

    Args:
        metrics: One or more by the features of one extractor.
        references: Folder or manifest.
        settings: Where to, and how to extract.

    Raises:
        UsageError: A metric is none by features.
        LlmbindError: As :func:`~llmbind_cli.evaluation.run.run_eval`.
    """
    from llmbind_cli.evaluation.feature_scores import save_reference_statistics
    from llmbind_cli.evaluation.network_scores import feature_source

    found = find_metrics(metrics)
    for metric in found:
        if metric.family != "features":
            raise UsageError(f"--save-stats: {metric.name} takes no features")
    if len(groups := grouped(found)) > 1:
        names = ", ".join(group[0].name for group in groups)
        raise UsageError(f"--save-stats: {names} have different networks; give those of one")
    if settings.save_statistics is not None:
        with ExitStack() as stack:
            source = feature_source(found[0], network_settings(settings), stack)
            save_reference_statistics(read_media_set(references), source, settings.save_statistics)
        console.log(f"statistics in {settings.save_statistics}")
