"""``llmbind edit``: changes a picture as an instruction says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.commands.generator_flags import GeneratorFlags, spread_flags
from llmbind_cli.console import console


@spread_flags(without=("frames", "fps", "seconds", "video_format", "audio_format"))
def edit(
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="IMAGE",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
            help="Picture to change.",
        ),
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Argument(metavar="INSTRUCTION", show_default=False, help="What to change."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE|DIR", help="File or folder for what is made."),
    ] = flags.OUT,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="Hand INSTRUCTION to the generator as it is."),
    ] = False,
    requests: flags.From = None,
    generators: flags.Generators = None,
    *,
    how: GeneratorFlags,
    max_new_tokens: flags.MaxNewTokens = 256,
    model: flags.Model = flags.EMBEDDED,
    device: flags.DeviceFlag = flags.Device.auto,
    dtype: flags.DtypeFlag = flags.Dtype.auto,
    seed: flags.Seed = 0,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    offline: flags.Offline = False,
    debug: flags.Debug = False,
) -> None:
    """Change a picture as an instruction says."""
    console.configure(quiet=quiet, json=json, debug=debug)
    if requests is not None and image is not None:
        raise typer.BadParameter("IMAGE and --from exclude each other", param_hint="--from")
    if requests is None and (image is None or instruction is None):
        raise typer.BadParameter("give IMAGE and INSTRUCTION, or --from", param_hint="IMAGE")

    from llmbind_cli.generators.registry import parse_generator_overrides
    from llmbind_cli.inference.batch.batch_settings import BatchSettings
    from llmbind_cli.inference.edit import edit_batch, edit_picture
    from llmbind_cli.inference.model_options import ModelOptions

    overrides = parse_generator_overrides(generators or [])
    options = ModelOptions(
        model=model,
        device=device.value,
        dtype=dtype.value,
        offline=offline,
        settings=how.settings(),
    )
    if image is not None and instruction is not None:
        edit_picture(
            image=image,
            instruction=instruction,
            out=out,
            direct=direct,
            generators=overrides,
            max_new_tokens=max_new_tokens,
            seed=seed,
            options=options,
        )
        return
    settings = BatchSettings(
        requests=str(requests),
        out=out,
        modality="edit",
        direct=direct,
        generators=overrides,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    code = edit_batch(settings, options)
    if code:
        raise typer.Exit(code)
