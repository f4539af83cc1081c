"""``llmbind eval``: scores files beside references, and holds the figures against bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.console import console

_GATE = "NAME=VALUE"


def eval(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE.toml",
            show_default=False,
            help="Evaluation recipe: scorings and bounds.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", show_default=False, help="What to score; may be repeated."
        ),
    ] = None,
    pred: Annotated[
        Path | None,
        typer.Option(
            "--pred", metavar="PATH", show_default=False, help="Predictions: folder or manifest."
        ),
    ] = None,
    ref: Annotated[
        Path | None,
        typer.Option(
            "--ref", metavar="PATH", show_default=False, help="References: folder or manifest."
        ),
    ] = None,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            "--ignore-label",
            metavar="N",
            min=1,
            show_default=False,
            help="Leave out the pixels that have this number in a reference mask.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="DIR",
            show_default=False,
            help="Folder for report.json, report.md, junit.xml and items.jsonl.",
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar=_GATE,
            show_default=False,
            help="Exit with 4 if a figure is lower; may be repeated.",
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-over",
            metavar=_GATE,
            show_default=False,
            help="Exit with 4 if a figure of which less is better is higher.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="BUNDLE", help="No other value: eval loads no bundle.")
    ] = flags.EMBEDDED,
    device: Annotated[
        flags.Device, typer.Option("--device", help="Where the extractor of features runs.")
    ] = flags.Device.auto,
    dtype: Annotated[
        flags.Dtype, typer.Option("--dtype", help="No other value: extractors use float32.")
    ] = flags.Dtype.auto,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            show_default=False,
            help="Seed of intervals and subsets; that of the recipe, else 0.",
        ),
    ] = None,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    offline: flags.Offline = False,
    debug: flags.Debug = False,
) -> None:
    """Score files beside references. Nothing is generated: it reads what is there."""
    console.configure(quiet=quiet, json=json, debug=debug)
    if model != flags.EMBEDDED or dtype is not flags.Dtype.auto:
        name = "--model" if model != flags.EMBEDDED else "--dtype"
        raise typer.BadParameter("eval scores files and loads no bundle", param_hint=name)
    inputs = _inputs(recipe, metric, pred, ref, ignore_label)

    from llmbind_cli.evaluation.gate import parse_gate
    from llmbind_cli.evaluation.run import EvalSettings, Scoring, run_eval

    gates = [parse_gate("--fail-under", text) for text in fail_under or []]
    gates += [parse_gate("--fail-over", text) for text in fail_over or []]
    settings = EvalSettings(seed=seed or 0, device=device.value, offline=offline, report=report)
    if inputs is None:
        from llmbind_cli.evaluation.recipe_run import run_recipe
        from llmbind_cli.recipes.locate import find_recipe

        run_recipe(find_recipe(recipe or ""), gates, settings, seed=seed)
    else:
        names, predictions, references = inputs
        scoring = Scoring(
            metrics=names,
            predictions=predictions,
            references=references,
            ignore_label=ignore_label,
        )
        run_eval([scoring], gates, settings)


def _inputs(
    recipe: str | None,
    metric: list[str] | None,
    pred: Path | None,
    ref: Path | None,
    ignore_label: int | None,
) -> tuple[list[str], Path, Path] | None:
    """Return what to score, or ``None`` where a recipe says it."""
    named = {"--metric": metric, "--pred": pred, "--ref": ref}
    if recipe is not None:
        given = [
            name for name, value in (named | {"--ignore-label": ignore_label}).items() if value
        ]
        if given:
            raise typer.BadParameter("the recipe says this", param_hint=given[0])
        return None
    if metric and pred is not None and ref is not None:
        return metric, pred, ref
    missing = ", ".join(name for name, value in named.items() if not value)
    raise typer.BadParameter(
        f"give RECIPE.toml, or --metric, --pred and --ref; missing: {missing}",
        param_hint="RECIPE.toml",
    )
