"""``llmbind eval``: scores a model or a folder of outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.console import console
from llmbind_cli.errors import UnavailableError


def eval(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE.toml", help="Evaluation recipe: what to score, and how."),
    ],
    model: flags.Model = flags.EMBEDDED,
    device: flags.DeviceFlag = flags.Device.auto,
    dtype: flags.DtypeFlag = flags.Dtype.auto,
    seed: flags.Seed = 0,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    offline: flags.Offline = False,
    debug: flags.Debug = False,
) -> None:
    """Score a model or its outputs. This version has no metric and no reference model for it."""
    console.configure(quiet=quiet, json=json, debug=debug)

    from llmbind_cli.recipes.load import read_toml
    from llmbind_cli.recipes.locate import find_recipe

    read_toml(find_recipe(recipe))
    raise UnavailableError(
        "this version of llmbind has no metrics and no reference models, so 'eval' cannot run"
    )
