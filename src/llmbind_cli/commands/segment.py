"""``llmbind segment``: cuts out what an instruction names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, UnavailableError


def segment(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", exists=True, dir_okay=False, readable=True, help="Picture to read."
        ),
    ],
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What to cut out.")],
    model: flags.Model = flags.EMBEDDED,
    device: flags.DeviceFlag = flags.Device.auto,
    dtype: flags.DtypeFlag = flags.Dtype.auto,
    seed: flags.Seed = 0,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    offline: flags.Offline = False,
    debug: flags.Debug = False,
) -> None:
    """Cut out what an instruction names in a picture. This version has no model for it."""
    console.configure(quiet=quiet, json=json, debug=debug)
    if not instruction.strip():
        raise InputDataError("INSTRUCTION is empty: say what you want of the picture")
    raise UnavailableError(
        "this version of llmbind has no mask decoder, so 'segment' cannot run; "
        "'llmbind generate' and 'llmbind chat' work"
    )
