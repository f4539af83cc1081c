"""``llmbind segment``: cuts out what an instruction names."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.console import console


class MaskFormat(StrEnum):
    """How a mask is written."""

    png = "png"
    rle = "rle"


def segment(
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="IMAGE",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
            help="Picture to read.",
        ),
    ] = None,
    instruction: Annotated[
        str | None,
        typer.Argument(metavar="INSTRUCTION", show_default=False, help="What to cut out."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE|DIR", help="File or folder for the masks."),
    ] = flags.OUT,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write the picture with each mask over it as well.")
    ] = False,
    mask_format: Annotated[
        MaskFormat,
        typer.Option("--format", help="A grey picture, or COCO's run lengths as JSON."),
    ] = MaskFormat.png,
    requests: flags.From = None,
    teacher_forced: Annotated[
        bool,
        typer.Option(
            "--teacher-forced",
            help="With --from: take each line's \"reply\" for the model's own, as LISA scores.",
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=1024, help="Requests decided at once.")
    ] = 8,
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
    """Cut out what an instruction names in a picture."""
    console.configure(quiet=quiet, json=json, debug=debug)
    if requests is not None and image is not None:
        raise typer.BadParameter("IMAGE and --from exclude each other", param_hint="--from")
    if requests is None and (image is None or instruction is None):
        raise typer.BadParameter("give IMAGE and INSTRUCTION, or --from", param_hint="IMAGE")
    if teacher_forced and requests is None:
        raise typer.BadParameter("is for --from", param_hint="--teacher-forced")

    from llmbind_cli.inference.batch.batch_settings import BatchSettings
    from llmbind_cli.inference.masks import MaskSettings
    from llmbind_cli.inference.model_options import ModelOptions
    from llmbind_cli.inference.segment import segment_batch, segment_picture

    masks = MaskSettings(format=mask_format.value, overlay=overlay)
    options = ModelOptions(model=model, device=device.value, dtype=dtype.value, offline=offline)
    if image is not None and instruction is not None:
        segment_picture(
            image=image,
            instruction=instruction,
            out=out,
            masks=masks,
            max_new_tokens=max_new_tokens,
            seed=seed,
            options=options,
        )
        return
    settings = BatchSettings(
        requests=str(requests),
        out=out,
        modality="segment",
        masks=masks,
        teacher_forced=teacher_forced,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    code = segment_batch(settings, options)
    if code:
        raise typer.Exit(code)
