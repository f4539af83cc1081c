"""``llmbind generate``: makes pictures, clips and sounds from requests."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.console import console


def generate(
    prompt: flags.Prompt = None,
    modality: Annotated[
        flags.Modality, typer.Option("--modality", help="What to make; auto lets the model choose.")
    ] = flags.Modality.auto,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="Hand the words to the generator of --modality as they are."),
    ] = False,
    plan: flags.Plan = False,
    requests: flags.From = None,
    out: flags.Out = flags.OUT,
    generators: flags.Generators = None,
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
    """Make pictures, clips and sounds. The model picks which, and writes the prompt."""
    console.configure(quiet=quiet, json=json, debug=debug)
    if prompt is not None and requests is not None:
        raise typer.BadParameter("PROMPT and --from exclude each other", param_hint="--from")
    if prompt is None and requests is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise typer.BadParameter("give a PROMPT, '-' for stdin, or --from", param_hint="PROMPT")
        prompt = "-"

    from llmbind_cli.generators.registry import parse_generator_overrides
    from llmbind_cli.inference.generate import run_generate
    from llmbind_cli.inference.model_options import ModelOptions

    run_generate(
        prompt=prompt,
        modality=modality.value,
        direct=direct,
        plan=plan,
        requests=requests,
        out=out,
        generators=parse_generator_overrides(generators or []),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
        options=ModelOptions(model=model, device=device.value, dtype=dtype.value, offline=offline),
    )
