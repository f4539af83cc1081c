"""The flags that say how a generator works, each declared once and taken by several commands.

A command has one parameter of the class :class:`GeneratorFlags`, and :func:`spread_flags` puts a
flag for each of its fields in that parameter's place.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from llmbind_cli.generators.settings import GeneratorSettings


class Preset(StrEnum):
    """Scheduler, steps and guidance for weights that were distilled to few steps."""

    lcm = "lcm"
    turbo = "turbo"


class VideoFormat(StrEnum):
    """Type of file for clips."""

    mp4 = "mp4"
    gif = "gif"


class AudioFormat(StrEnum):
    """Type of file for sounds."""

    wav = "wav"
    flac = "flac"


@dataclass(frozen=True, kw_only=True)
class Size:
    """Value of ``--size``, px."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read ``WIDTHxHEIGHT``.

        Raises:
            BadParameter: The text has another form.
        """
        sides = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
        if sides is None:
            raise typer.BadParameter(
                f"write WIDTHxHEIGHT in px, 8 to 8192 each, such as 512x512; got {text!r}"
            )
        return cls(width=int(sides[1]), height=int(sides[2]))


@dataclass(frozen=True, kw_only=True)
class GeneratorFlags:
    """What a user asks of every generator; without it, the pipeline's own default counts.

    The fields are those of :class:`llmbind_cli.generators.settings.GeneratorSettings`, whose
    ranges the flags repeat for their help.
    """

    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=1, max=1000, help="Denoising steps."),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", metavar="X", min=0, max=100, help="Scale of classifier-free guidance."
        ),
    ] = None
    size: Annotated[
        Size | None,
        typer.Option(
            "--size",
            metavar="WIDTHxHEIGHT",
            parser=Size.parse,
            help="Size in px; of an edit, the area to work at.",
        ),
    ] = None
    frames: Annotated[
        int | None,
        typer.Option("--frames", metavar="N", min=1, max=10_000, help="Frames of a clip."),
    ] = None
    fps: Annotated[
        int | None,
        typer.Option("--fps", metavar="N", min=1, max=120, help="Frames per second of a clip."),
    ] = None
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", metavar="S", min=0.01, max=3600, help="Length of a clip or a sound."
        ),
    ] = None
    negative_prompt: Annotated[
        str | None,
        typer.Option("--negative-prompt", metavar="TEXT", help="What to keep away from."),
    ] = None
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            metavar="X",
            min=0.01,
            max=1,
            help="How far an image-to-image edit may leave its picture.",
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        typer.Option("--preset", help="Sampling for weights distilled to few steps."),
    ] = None
    video_format: Annotated[
        VideoFormat, typer.Option("--video-format", help="Type of file for clips.")
    ] = VideoFormat.mp4
    audio_format: Annotated[
        AudioFormat, typer.Option("--audio-format", help="Type of file for sounds.")
    ] = AudioFormat.wav
    cpu_offload: Annotated[
        bool,
        typer.Option("--cpu-offload", help="Keep networks off the GPU while they do not work."),
    ] = False
    vae_slicing: Annotated[
        bool, typer.Option("--vae-slicing", help="Decode the pictures of a batch one by one.")
    ] = False
    memory_budget: Annotated[
        float | None,
        typer.Option(
            "--memory-budget", metavar="GIB", help="Most memory for the weights of generators."
        ),
    ] = None

    def settings(self) -> GeneratorSettings:
        """Return the settings of the generators.

        Raises:
            UsageError: A value is out of range.
        """
        from llmbind_cli.generators.settings import GeneratorSettings

        return GeneratorSettings(
            steps=self.steps,
            guidance=self.guidance,
            width=None if self.size is None else self.size.width,
            height=None if self.size is None else self.size.height,
            frames=self.frames,
            fps=self.fps,
            seconds=self.seconds,
            negative_prompt=self.negative_prompt,
            strength=self.strength,
            preset=None if self.preset is None else self.preset.value,
            video_format=self.video_format.value,
            audio_format=self.audio_format.value,
            cpu_offload=self.cpu_offload,
            vae_slicing=self.vae_slicing,
            memory_budget_gib=self.memory_budget,
        )


def spread_flags(
    *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that shows Typer a command's :class:`GeneratorFlags` as single flags.

    Args:
        without: Fields that mean nothing to the command.
    """
    hints = get_type_hints(GeneratorFlags, include_extras=True)
    spread = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(GeneratorFlags)
        if field.name not in without
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        declared = inspect.signature(command, eval_str=True).parameters.values()
        place = next(p.name for p in declared if p.annotation is GeneratorFlags)
        shown: list[inspect.Parameter] = []
        for parameter in declared:
            # Typer hands all values over by name.
            shown += (
                spread
                if parameter.name == place
                else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
            )

        @functools.wraps(command)
        def run(**values: Any) -> None:
            flags = GeneratorFlags(**{p.name: values.pop(p.name) for p in spread})
            command(**values, **{place: flags})

        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        return run

    return decorate
