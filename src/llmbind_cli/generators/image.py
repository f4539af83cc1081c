"""Images from text: any text-to-image diffusers pipeline, held as it was saved.

LLMBind (arXiv 2402.14891) draws with Stable Diffusion behind the ``<gen>`` pair; any pipeline
that takes a prompt and gives pictures stands in for it without retraining.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llmbind_cli.errors import UsageError
from llmbind_cli.generators import media, small_world
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.settings import GeneratorSettings


class ImageGenerator(PipelineGenerator):
    """A text-to-image pipeline; its results are 8-bit RGB PNG files of the pipeline's size.

    Requests' pictures are not looked at. A pipeline of a small world draws at its own size alone,
    and its pictures are enlarged to a wanted one.
    """

    modality = "image"
    result_name = "picture"
    empty_result = "an all-black picture"

    @classmethod
    def file_format(cls, settings: GeneratorSettings) -> str:
        """Return ``png``."""
        return "png"

    @functools.cached_property
    def _world(self) -> small_world.SmallWorld | None:
        """The small world that the pipeline draws; ``None`` for one that draws anything."""
        return small_world.read_small_world(self.folder)

    @functools.cached_property
    def _wordings(self) -> dict[str, str]:
        """Prompt → words for a pipeline of a small world, so that one prompt is told of once."""
        return {}

    def _wording(self, prompt: str) -> str:
        if self._world is None:
            return prompt
        known = self._wordings
        if prompt not in known:
            known[prompt] = small_world.reword(prompt, name=self.name, fits=self._fits)
        return known[prompt]

    def _longest_prompt(self) -> int | None:
        return None if self._world is None else self._world.longest

    def _own_keywords(self) -> dict[str, Any]:
        settings = self._settings
        if self._world is None or settings.width is None:
            return {}
        if settings.width != settings.height:
            raise UsageError(
                f"--size: {self.name} draws squares, got {settings.width}x{settings.height}"
            )
        # It knows one size; _encode enlarges what it drew.
        return {"width": None, "height": None}

    def _results(self, output: Any) -> Sequence[Any]:
        return list(output.images)

    def _encode(self, request: GeneratorRequest, values: media.Array) -> bytes:
        levels = media.levels_of(values)
        if self._world is not None and self._settings.width is not None:
            levels = media.resized(levels, self._settings.width)
        return media.png(levels, self._provenance(request))
