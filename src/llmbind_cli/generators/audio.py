"""Sounds from text: AudioLDM, AudioLDM 2, MusicLDM and Stable Audio pipelines.

LLMBind (arXiv 2402.14891) makes sounds with CoDi behind the ``<aud_cap>`` pair. diffusers has no
pipeline for CoDi; AudioLDM, a latent diffusion over mel spectrograms as well, stands in for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmbind_cli.errors import UsageError
from llmbind_cli.generators import media, pipeline_call
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.pipeline_kind import call_arguments
from llmbind_cli.generators.settings import GeneratorSettings


class AudioGenerator(PipelineGenerator):
    """A text-to-audio pipeline; its results are 16-bit WAV or FLAC files at its own rate."""

    modality = "audio"
    result_name = "sound"
    empty_result = "silence"

    @classmethod
    def file_format(cls, settings: GeneratorSettings) -> str:
        """Return ``wav`` or ``flac``."""
        return settings.audio_format

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second of what the pipeline makes."""
        vocoder = getattr(self.pipeline, "vocoder", None)
        return int((self.pipeline.vae if vocoder is None else vocoder).config.sampling_rate)

    def _own_keywords(self) -> dict[str, Any]:
        seconds = self._settings.seconds
        if seconds is None:
            return {}
        longest = _most_seconds(self.pipeline)
        if longest is not None and seconds > longest:
            raise UsageError(f"--seconds: {self.name} makes at most {longest:g} s, got {seconds:g}")
        ends = "audio_end_in_s" in call_arguments(type(self.pipeline))
        return {"audio_end_in_s" if ends else "audio_length_in_s": seconds}

    def _results(self, output: Any) -> Sequence[Any]:
        return list(output.audios)

    def _encode(self, request: GeneratorRequest, values: media.Array) -> bytes:
        encode = media.wav if self._settings.audio_format == "wav" else media.flac
        # Pipelines give [samples] or [channels, samples]; sound files hold [samples, channels].
        rate = self.sample_rate_hz
        return encode(values.T, self._provenance(request), sample_rate_hz=rate)


def _most_seconds(pipeline: Any) -> float | None:
    """Return how long a Stable Audio pipeline's sounds can be; the others have no bound."""
    hop = getattr(pipeline.vae, "hop_length", None)
    length = pipeline_call.config_value(pipeline, "transformer", "sample_size")
    if hop is None or length is None:
        return None
    return float(length * hop / pipeline.vae.config.sampling_rate)
