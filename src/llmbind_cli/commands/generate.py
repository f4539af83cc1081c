"""``llmbind generate``: makes pictures, clips and sounds from requests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.commands.generator_flags import GeneratorFlags, spread_flags
from llmbind_cli.console import console


@spread_flags(without=("strength",))
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
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on with the job in --out, or demand an empty folder."
        ),
    ] = True,
    shard: Annotated[
        str,
        typer.Option("--shard", metavar="I/N", help="Do only the I-th of N parts of --from."),
    ] = "1/1",
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge",
            metavar="DIR",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Put the shards in DIR together in --out; may be repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count and estimate what --from asks for; no more.")
    ] = False,
    fail_if_empty: Annotated[
        bool, typer.Option("--fail-if-empty", help="Exit with 5 if --from has no requests.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="S",
            min=0.0,
            callback=flags.a_number,
            help="Seconds to wait for another run in --out.",
        ),
    ] = 0.0,
    generators: flags.Generators = None,
    *,
    how: GeneratorFlags,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=1024, help="Requests decided at once.")
    ] = 32,
    max_new_tokens: flags.MaxNewTokens = 256,
    gallery: flags.Gallery = False,
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
    _check_combination(prompt, requests, merge)
    for name, is_given in {"--merge": bool(merge), "--dry-run": dry_run}.items():
        if plan and is_given:
            raise typer.BadParameter(f"makes nothing: no {name} beside it", param_hint="--plan")
    batch_flags = {
        "--no-resume": not resume,
        "--shard": shard != "1/1",
        "--dry-run": dry_run,
        "--fail-if-empty": fail_if_empty,
    }
    given = [name for name, is_given in batch_flags.items() if is_given]
    if given and requests is None:
        raise typer.BadParameter("needs --from", param_hint=given[0])
    if prompt is None and requests is None and not merge:
        if sys.stdin.isatty():
            raise typer.BadParameter("give a PROMPT, '-' for stdin, or --from", param_hint="PROMPT")
        prompt = "-"

    from llmbind_cli.generators.registry import parse_generator_overrides
    from llmbind_cli.inference.batch.batch_settings import BatchSettings
    from llmbind_cli.inference.generate import run_generate
    from llmbind_cli.inference.model_options import ModelOptions
    from llmbind_cli.inference.shards import Shard

    code = run_generate(
        prompt=prompt,
        settings=BatchSettings(
            requests=requests or "",
            out=out,
            modality=None if modality is flags.Modality.auto else modality.value,
            direct=direct,
            generators=parse_generator_overrides(generators or []),
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            seed=seed,
            resume=resume,
            shard=Shard.parse(shard),
            wait_s=wait,
            fail_if_empty=fail_if_empty,
        ),
        plan=plan,
        dry_run=dry_run,
        merge=merge or [],
        gallery=gallery,
        options=ModelOptions(
            model=model,
            device=device.value,
            dtype=dtype.value,
            offline=offline,
            settings=how.settings(),
        ),
    )
    raise typer.Exit(code)


def _check_combination(prompt: str | None, requests: str | None, merge: list[Path] | None) -> None:
    named = {"PROMPT": prompt is not None, "--from": requests is not None, "--merge": bool(merge)}
    given = [name for name, is_given in named.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other", param_hint=given[-1])
