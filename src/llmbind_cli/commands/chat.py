"""``llmbind chat``: talks with a binding model, on a terminal or for one turn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmbind_cli.commands import flags
from llmbind_cli.commands.generator_flags import GeneratorFlags, spread_flags
from llmbind_cli.console import console


@spread_flags()
def chat(
    prompt: flags.Prompt = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
            help="Picture to talk about or to edit; may be repeated.",
        ),
    ] = None,
    out: flags.Out = flags.OUT,
    session: Annotated[
        Path | None,
        typer.Option(
            "--session",
            metavar="FILE.jsonl",
            dir_okay=False,
            show_default=False,
            help="Keep the conversation in a file, and go on with the one in it.",
        ),
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Make the files of --session again; ask no model.")
    ] = False,
    preview: Annotated[
        bool | None,
        typer.Option(
            "--preview/--no-preview",
            show_default=False,
            help="Show pictures in any terminal; never. Default: where it can show true ones.",
        ),
    ] = None,
    gallery: flags.Gallery = False,
    plan: flags.Plan = False,
    requests: flags.From = None,
    generators: flags.Generators = None,
    *,
    how: GeneratorFlags,
    max_new_tokens: flags.MaxNewTokens = 256,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            min=0.0,
            max=2.0,
            callback=flags.a_number,
            help="0 takes the likeliest token.",
        ),
    ] = 0.0,
    model: flags.Model = flags.EMBEDDED,
    device: flags.DeviceFlag = flags.Device.auto,
    dtype: flags.DtypeFlag = flags.Dtype.auto,
    seed: flags.Seed = 0,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    offline: flags.Offline = False,
    debug: flags.Debug = False,
) -> None:
    """Talk with the model. A conversation on a terminal, one turn with PROMPT or a pipe."""
    console.configure(quiet=quiet, json=json, debug=debug)
    if prompt is not None and requests is not None:
        raise typer.BadParameter("PROMPT and --from exclude each other", param_hint="--from")

    if replay and (prompt is not None or images or plan or requests is not None):
        raise typer.BadParameter(
            "makes what stands in --session: no PROMPT, --image, --plan or --from beside it",
            param_hint="--replay",
        )
    if requests is not None and not plan:
        raise typer.BadParameter(
            "needs --plan; `llmbind generate --from` makes the files", param_hint="--from"
        )

    from llmbind_cli.generators.registry import parse_generator_overrides
    from llmbind_cli.inference.chat.chat import ChatOptions, plan_chat, replay_chat, run_chat
    from llmbind_cli.inference.model_options import ModelOptions

    talk = ChatOptions(
        out=out,
        session=session,
        preview=preview,
        gallery=gallery,
        generators=parse_generator_overrides(generators or []),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    options = ModelOptions(
        model=model,
        device=device.value,
        dtype=dtype.value,
        offline=offline,
        settings=how.settings(),
    )
    if replay:
        replay_chat(chat=talk, options=options)
    elif plan:
        plan_chat(prompt=prompt, images=images or [], requests=requests, chat=talk, options=options)
    else:
        run_chat(prompt=prompt, images=images or [], chat=talk, options=options)
