"""Images from text: any text-to-image diffusers pipeline, held as it was saved.

LLMBind (arXiv 2402.14891) draws with Stable Diffusion behind the ``<gen>`` pair; any pipeline
that takes a prompt and gives pictures stands in for it without retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmbind_cli.generators import media
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.settings import GeneratorSettings


class ImageGenerator(PipelineGenerator):
    """A text-to-image pipeline; its results are 8-bit RGB PNG files of the pipeline's size.

    Requests' pictures are not looked at.
    """

    modality = "image"
    result_name = "picture"
    empty_result = "an all-black picture"

    @classmethod
    def file_format(cls, settings: GeneratorSettings) -> str:
        """Return ``png``."""
        return "png"

    def _results(self, output: Any) -> Sequence[Any]:
        return list(output.images)

    def _encode(self, request: GeneratorRequest, values: media.Array) -> bytes:
        return media.png(media.levels_of(values), self._provenance(request))
