"""Generators without networks: a painter of plain colours, an editor, a musician; and a shelf."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageChops

from llmbind_cli.errors import InputDataError, ModelNotFoundError
from llmbind_cli.generators.base import (
    GeneratedArtifact,
    GenerationOutcome,
    Generator,
    GeneratorRequest,
)


def colour_of(prompt: str, seed: int) -> tuple[int, int, int]:
    """Return the colour that the painter gives a prompt under a seed."""
    digest = hashlib.sha256(f"{prompt} {seed}".encode()).digest()
    return digest[0], digest[1], digest[2]


class Painter:
    """Paints 12 × 8 px in one colour, and refuses the prompt ``nothing``."""

    modality = "image"
    name = "painter"
    fingerprint = "1"
    batch_size = 2

    def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        return [self.paint(request) for request in requests]

    def paint(self, request: GeneratorRequest) -> GenerationOutcome:
        if request.prompt == "nothing":
            return InputDataError("nothing cannot be painted")
        return png(Image.new("RGB", (12, 8), colour_of(request.prompt, request.seed)))


class Editor(Painter):
    """Adds the colour of the instruction to the picture it is given."""

    modality = "edit"
    name = "editor"

    def paint(self, request: GeneratorRequest) -> GenerationOutcome:
        assert request.image is not None
        layer = Image.new("RGB", request.image.size, colour_of(request.prompt, request.seed))
        return png(ImageChops.add_modulo(request.image, layer))


class Musician(Painter):
    """Writes the words down and calls them a sound."""

    modality = "audio"
    name = "musician"

    def paint(self, request: GeneratorRequest) -> GenerationOutcome:
        payload = f"{request.prompt} {request.seed}".encode()
        return GeneratedArtifact(payload=payload, media_type="audio/wav", suffix=".wav")


class Shelf:
    """Hands out generators like the registry."""

    def __init__(self, *generators: Generator) -> None:
        self._generators = {generator.modality: generator for generator in generators}

    def check(self, modality: str) -> str:
        if modality not in self._generators:
            raise ModelNotFoundError(f"no {modality} generator: name one with --generator")
        return self._generators[modality].name

    def load(self, modality: str) -> Generator:
        self.check(modality)
        return self._generators[modality]


def all_generators() -> Shelf:
    """Return a shelf with one generator for pictures, edits and sounds."""
    return Shelf(Painter(), Editor(), Musician())


def png(picture: Any) -> GeneratedArtifact:
    """Return a picture as an artifact."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return GeneratedArtifact(payload=stream.getvalue(), media_type="image/png", suffix=".png")
