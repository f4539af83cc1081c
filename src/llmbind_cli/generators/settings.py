"""What a user may ask of every generator: steps, sizes, lengths, file formats, memory.

``None`` always means the pipeline's own default: its ``sampling.json`` where it has one, else what
its class or its configuration says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from llmbind_cli.errors import UsageError

PRESETS = ("lcm", "turbo")
VIDEO_FORMATS = ("mp4", "gif")
AUDIO_FORMATS = ("wav", "flac")

_ALL = ("image", "edit", "video", "audio")
_PICTURES = ("image", "edit", "video")
_APPLIES = {
    "steps": _ALL,
    "guidance": _ALL,
    "negative_prompt": _ALL,
    "preset": _ALL,
    "width": _PICTURES,
    "height": _PICTURES,
    "frames": ("video",),
    "fps": ("video",),
    "seconds": ("video", "audio"),
    "strength": ("edit",),
    "video_format": ("video",),
    "audio_format": ("audio",),
    "cpu_offload": _ALL,
    "vae_slicing": _ALL,
    "memory_budget_gib": _ALL,
}
# Where a network stands while it works changes no result.
_MEMORY_ONLY = ("cpu_offload", "vae_slicing", "memory_budget_gib")
_WHOLE = {
    "steps": (1, 1000, ""),
    "width": (8, 8192, " px"),
    "height": (8, 8192, " px"),
    "frames": (1, 10_000, ""),
    "fps": (1, 120, " frames per second"),
}
_NUMBERS = {
    "guidance": (0.0, 100.0, ""),
    "seconds": (0.01, 3600.0, " s"),
    "strength": (0.01, 1.0, ""),
    "memory_budget_gib": (1e-6, 1e6, " GiB"),
}
_FLAGS = {
    "width": "the width of --size",
    "height": "the height of --size",
    "memory_budget_gib": "--memory-budget",
}


def flag_of(setting: str) -> str:
    """Return what a setting is called on the command line, for errors that name it."""
    return _FLAGS.get(setting, f"--{setting.replace('_', '-')}")


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """Settings of the generators of one process.

    A setting belongs to some modalities only (``fps`` to video alone) and the generators of the
    others do not look at it; :meth:`refuse_unused` says when nothing that runs would. A generator
    of a setting's own modality takes it or refuses it.

    Attributes:
        steps: Denoising steps, 1 to 1000.
        guidance: Scale of classifier-free guidance, 0 to 100; at 1 and below there is none.
        width: Of pictures and clips, px.
        height: Of pictures and clips, px. An edit works on about width × height pixels in the
            picture's own proportions, and its result comes back in the picture's own frame.
        frames: Frames of a clip.
        fps: Frames per second of a clip's file.
        seconds: Length of a sound; of a clip without ``frames``, rounded up to a number of frames
            that its pipeline can make.
        negative_prompt: What to keep away from.
        strength: How far an image-to-image edit may leave its picture, in (0, 1].
        preset: ``lcm`` or ``turbo``: scheduler, steps and guidance for weights that were distilled
            so; ``steps`` and ``guidance`` beside it win over the preset's own.
        cpu_offload: Keep networks in main memory and move each to the GPU while it works.
        vae_slicing: Decode the pictures of a batch one after another.
        video_format: ``mp4`` or ``gif``.
        audio_format: ``wav`` or ``flac``.
        memory_budget_gib: Most memory for the parameters of loaded generators, GiB of 2^30 bytes.
    """

    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: int | None = None
    seconds: float | None = None
    negative_prompt: str | None = None
    strength: float | None = None
    preset: str | None = None
    cpu_offload: bool = False
    vae_slicing: bool = False
    video_format: str = "mp4"
    audio_format: str = "wav"
    memory_budget_gib: float | None = None

    def __post_init__(self) -> None:
        for name, (least, most, unit) in _WHOLE.items():
            value = getattr(self, name)
            if value is None:
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not least <= value <= most:
                raise UsageError(
                    f"{flag_of(name)} must be a whole number of {least} to {most}{unit}, "
                    f"got {value!r}"
                )
        for name, (low, high, unit) in _NUMBERS.items():
            value = getattr(self, name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or math.isnan(value) or not low <= value <= high:
                raise UsageError(
                    f"{flag_of(name)} must lie in {low:g} to {high:g}{unit}, got {value!r}"
                )
        _one_of("preset", self.preset, (*PRESETS, None))
        _one_of("video_format", self.video_format, VIDEO_FORMATS)
        _one_of("audio_format", self.audio_format, AUDIO_FORMATS)
        if (self.width is None) != (self.height is None):
            raise UsageError("width and height go together: give both or neither")
        if self.negative_prompt is not None and not self.negative_prompt.strip():
            raise UsageError("--negative-prompt must hold words, got an empty one")

    def chosen(self, modality: str) -> dict[str, Any]:
        """Return the settings that differ from the default and concern a modality, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if modality in _APPLIES[field.name] and getattr(self, field.name) != field.default
        }

    def refuse_unused(self, modalities: Iterable[str]) -> None:
        """Refuse settings that concern none of the modalities that are to run.

        Args:
            modalities: Task names; empty where they are not known yet, and then nothing is refused.

        Raises:
            UsageError: Names the flag and the modalities it is for.
        """
        running = set(modalities)
        for field in fields(self):
            meant = _APPLIES[field.name]
            if running and getattr(self, field.name) != field.default and not running & set(meant):
                raise UsageError(
                    f"{flag_of(field.name)} is for {' and '.join(meant)}; this run makes "
                    f"{' and '.join(sorted(running))}"
                )

    def shape(self, modality: str) -> str:
        """Return the settings that shape the results of a modality, as JSON with sorted keys."""
        shaping = {k: v for k, v in self.chosen(modality).items() if k not in _MEMORY_ONLY}
        return json.dumps(shaping, sort_keys=True)


def _one_of(name: str, value: str | None, known: tuple[str | None, ...]) -> None:
    if value not in known:
        listed = ", ".join(choice for choice in known if choice is not None)
        raise UsageError(f"{flag_of(name)} must be one of {listed}; got {value!r}")
