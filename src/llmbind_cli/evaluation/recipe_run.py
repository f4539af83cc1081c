"""Runs an evaluation recipe: its scorings, its gates, and those of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmbind_cli.errors import ConfigurationError, UsageError
from llmbind_cli.evaluation.gate import Gate, make_gate, require_figures
from llmbind_cli.evaluation.metric_table import find_metrics
from llmbind_cli.evaluation.report import Report, metric_key
from llmbind_cli.evaluation.run import EvalSettings, Scoring, run_eval
from llmbind_cli.recipes.eval_schema import EvalRecipe, load_eval_recipe


def run_recipe(
    path: Path, gates: Sequence[Gate], settings: EvalSettings, *, seed: int | None
) -> Report:
    """Run a recipe.

    Args:
        path: The TOML file.
        gates: Further bounds, on figures named ``SCORING/METRIC``.
        settings: What holds for the run; its seed and recipe are replaced.
        seed: Instead of the recipe's, or ``None``.

    Returns:
        The report.

    Raises:
        ConfigurationError: The recipe is wrong.
        LlmbindError: As :func:`~llmbind_cli.evaluation.run.run_eval`.
    """
    recipe = load_eval_recipe(path)
    scorings = [
        Scoring(
            name=score.name,
            metrics=score.metrics,
            predictions=score.predictions,
            references=score.references,
            ignore_label=score.ignore_label,
        )
        for score in recipe.score
    ]
    try:
        own = _gates(recipe)
        figures = [
            metric_key(scoring.name, metric.name)
            for scoring in scorings
            for metric in find_metrics(scoring.metrics)
        ]
        require_figures(own, figures)
    except UsageError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    chosen = replace(settings, seed=recipe.seed if seed is None else seed, recipe=path)
    return run_eval(scorings, [*own, *gates], chosen)


def _gates(recipe: EvalRecipe) -> list[Gate]:
    return [
        make_gate(flag, metric_key(score.name, metric), bound)
        for score in recipe.score
        for flag, bounds in (("fail_under", score.fail_under), ("fail_over", score.fail_over))
        for metric, bound in bounds.items()
    ]
