"""``llmbind train``: trains a binding model from a recipe."""

from __future__ import annotations

from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.console import console


class TrainingDtype(StrEnum):
    """The number formats of the frozen weights that training can pass gradients through."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float32 = "float32"


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE.toml", help="Recipe file, or the name of a shipped recipe."),
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            show_default=False,
            help="Replace one recipe value, as in optim.lr=1e-4; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", show_default=False, help="Replace output.dir of the recipe."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Report parameters, data, memory and steps; train nothing."),
    ] = False,
    build_data: Annotated[
        bool,
        typer.Option(
            "--build-data",
            help="Write the dialogues of the recipe's builders to the output folder; train"
            " nothing.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="SOURCE",
            show_default=False,
            help="Replace model.base of the recipe.",
        ),
    ] = None,
    device: flags.DeviceFlag = flags.Device.auto,
    dtype: Annotated[
        TrainingDtype | None,
        typer.Option("--dtype", show_default=False, help="Replace model.dtype of the recipe."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=flags.LARGEST_SEED,
            show_default=False,
            help="Replace train.seed of the recipe.",
        ),
    ] = None,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    offline: flags.Offline = False,
    debug: flags.Debug = False,
) -> None:
    """Train a binding model from a recipe."""
    console.configure(quiet=quiet, json=json, debug=debug)
    overrides = list(assignments or [])
    replacements = {"model.base": model, "model.dtype": dtype, "train.seed": seed}
    # JSON's strings and numbers are TOML's as well.
    overrides += [
        f"{key}={dumps(value)}" for key, value in replacements.items() if value is not None
    ]

    from llmbind_cli.recipes.locate import find_recipe

    if build_data:
        from llmbind_cli.errors import UsageError
        from llmbind_cli.training.build_data import build_data as build

        if resume or dry_run:
            raise UsageError("--build-data goes with neither --resume nor --dry-run")
        build(find_recipe(recipe), overrides=overrides, output=output, offline=offline)
        return

    from llmbind_cli.training.run import train as run

    code = run(
        find_recipe(recipe),
        overrides=overrides,
        output=output,
        resume=resume,
        dry_run=dry_run,
        device=device.value,
        offline=offline,
    )
    raise typer.Exit(code)
