"""The flags that every command shares, each declared once."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

EMBEDDED = "embedded"
OUT = Path("llmbind-out")
LARGEST_SEED = 2**63 - 1


class Device(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """The number format of the frozen weights; the last two need CUDA and an extra package."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"
    int8 = "int8"
    int4 = "int4"


class Modality(StrEnum):
    """What ``generate`` makes."""

    auto = "auto"
    image = "image"
    video = "video"
    audio = "audio"


def a_number(value: float) -> float:
    """Refuse nan, which no range keeps out.

    Raises:
        typer.BadParameter: The value is nan.
    """
    if math.isnan(value):
        raise typer.BadParameter(f"{value} is no number")
    return value


def _a_name(value: str | None) -> str | None:
    if value == "":
        raise typer.BadParameter("the name of the file is empty")
    return value


Model = Annotated[str, typer.Option("--model", metavar="BUNDLE", help="Bundle to answer with.")]
DeviceFlag = Annotated[Device, typer.Option("--device", help="Where the model runs.")]
DtypeFlag = Annotated[Dtype, typer.Option("--dtype", help="Number format of the frozen weights.")]
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of every random choice."),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object a line to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No logs and no progress bars on stderr.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing; use what is cached.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", show_default=False, help="What you want; - reads stdin."),
]
Plan = Annotated[bool, typer.Option("--plan", help="Decide which tasks to run, but run none.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE.jsonl|-",
        callback=_a_name,
        show_default=False,
        help="Read one request a line.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the files made.")
]
Generators = Annotated[
    list[str] | None,
    typer.Option(
        "--generator",
        metavar="MODALITY=SOURCE",
        show_default=False,
        help="Use another generator for one modality; may be repeated.",
    ),
]
Gallery = Annotated[
    bool, typer.Option("--gallery", help="Write a page of all results, index.html, into --out.")
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, max=4096, help="Longest reply, in tokens.")
]
