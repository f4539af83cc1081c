"""An example of a generator for llmbind: each word of the prompt sounds as one sine tone.

It is here to show the protocol, not to be listened to: there is no model behind it, and a tone
says nothing of what its word means. The pitch comes from a hash of the word and of the seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from llmbind_cli.errors import UsageError
from llmbind_cli.generators import media
from llmbind_cli.generators.base import GeneratedArtifact, GenerationOutcome, GeneratorRequest
from llmbind_cli.generators.settings import GeneratorSettings

SAMPLE_RATE_HZ = 16_000
_DEFAULT_SECONDS = 1.0
_UNDERSTOOD = {"seconds", "audio_format", "memory_budget_gib"}


class ToneGenerator:
    """What llmbind calls: these five names are the whole protocol."""

    modality = "audio"
    name = "llmbind-tones 0.1.0"
    # A caller hands over so many requests at a time.
    batch_size = 8

    def __init__(self, settings: GeneratorSettings) -> None:
        # A setting that the generator cannot follow is an error that names it, never ignored.
        unknown = sorted(set(settings.chosen(self.modality)) - _UNDERSTOOD)
        if unknown:
            raise UsageError(f"{', '.join(unknown)}: {self.name} has none; leave it out")
        media.require_encoder(settings.audio_format)
        self._seconds = settings.seconds or _DEFAULT_SECONDS
        self._format = settings.audio_format
        # It must change whenever the same request would give another file.
        facts = f"{self.name} {settings.shape(self.modality)}"
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()

    def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Return one file for each request, in order; each depends on its own request only."""
        return [self._sound(request) for request in requests]

    def _sound(self, request: GeneratorRequest) -> GenerationOutcome:
        words = request.prompt.split()
        length = round(self._seconds * SAMPLE_RATE_HZ / len(words))
        if length < 1:
            # An error that is returned fails this request alone; a raised one ends the run.
            return UsageError(f"{len(words)} words do not fit into {self._seconds:g} s")
        time_s = np.arange(length) / SAMPLE_RATE_HZ
        tones = [
            np.sin(2 * math.pi * _pitch_hz(word, request.seed) * time_s) * np.hanning(length)
            for word in words
        ]
        provenance = media.Provenance(
            prompt=request.prompt,
            seed=request.seed,
            model=self.name,
            model_hash=self.fingerprint,
        )
        encode = {"wav": media.wav, "flac": media.flac}[self._format]
        return GeneratedArtifact(
            payload=encode(0.5 * np.concatenate(tones), provenance, sample_rate_hz=SAMPLE_RATE_HZ),
            media_type=media.MEDIA_TYPES[self._format],
            suffix=f".{self._format}",
        )


def make_generator(
    *, device: str, dtype: str, offline: bool, settings: GeneratorSettings
) -> ToneGenerator:
    """Make the generator; the entry point names this function.

    Args:
        device: Value of ``--device``; a tone needs none.
        dtype: Value of ``--dtype``; a tone has none.
        offline: Fetch nothing; nothing is.
        settings: What the user asked for.
    """
    return ToneGenerator(settings)


def _pitch_hz(word: str, seed: int) -> float:
    """Return one of two octaves of half tones above 220 Hz."""
    digest = hashlib.sha256(f"{seed}\0{word.lower()}".encode("utf-8", "surrogatepass")).digest()
    return float(220 * 2 ** (digest[0] % 25 / 12))
