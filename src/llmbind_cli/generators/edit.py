"""Edits of a picture by words: InstructPix2Pix pipelines and image-to-image ones.

LLMBind (arXiv 2402.14891) edits with InstructPix2Pix behind the ``<edit>`` pair. Where a folder
holds a text-to-image pipeline, the image-to-image class that diffusers pairs with it runs on the
same networks: it redraws the picture to fit the words, as far as ``strength`` lets it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from llmbind_cli.errors import InputDataError, LlmbindError, UsageError
from llmbind_cli.generators import media, pipeline_call
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.pipeline_kind import call_arguments
from llmbind_cli.generators.settings import GeneratorSettings

if TYPE_CHECKING:
    from PIL.Image import Image

_NATIVE_SIDE_PX = 512
_MOST_STRETCH = 1.5


class EditGenerator(PipelineGenerator):
    """An editing pipeline; its results are 8-bit RGB PNG files in the frame of the picture given.

    A picture is resized to sides that the pipeline can take, of about the area it was trained at
    and as near as may be to its own proportions; the result is resized back, so that nothing is
    cut off and every point stays where it was. A picture so narrow that it would be stretched by
    half is refused.
    """

    modality = "edit"
    result_name = "picture"
    empty_result = "an all-black picture"

    @classmethod
    def file_format(cls, settings: GeneratorSettings) -> str:
        """Return ``png``."""
        return "png"

    def _own_keywords(self) -> dict[str, Any]:
        accepted = call_arguments(type(self.pipeline))
        if not {"strength", "image_guidance_scale"} & set(accepted):
            # The others read a list of pictures as several sources for one result.
            self.batch_size = 1
        strength = self._keywords.get("strength", self._default("strength"))
        steps = self._keywords.get("num_inference_steps", self._default("num_inference_steps"))
        if strength is not None and steps is not None and int(steps * strength) < 1:
            raise UsageError(
                f"--strength {strength:g} of {steps} steps leaves none to run; raise it to "
                f"{1 / steps:.2g} or --steps to {math.ceil(1 / strength)}"
            )
        return {}

    def _refusal(self, request: GeneratorRequest) -> LlmbindError | None:
        if request.image is None:
            return UsageError(
                "an edit needs a picture to start from, and there is none; name one with --image"
            )
        if self._working_size(request.image) is None:
            width, height = request.image.size
            return InputDataError(
                f"the picture is {width} × {height} px, too narrow for {self.name}; cut it first"
            )
        return super()._refusal(request)

    def _batch_key(self, request: GeneratorRequest) -> Hashable:
        return None if request.image is None else self._working_size(request.image)

    def _inputs(self, requests: Sequence[GeneratorRequest]) -> dict[str, Any]:
        from PIL.Image import Resampling

        pictures = [request.image for request in requests if request.image is not None]
        size = self._working_size(pictures[0])
        if size is None:
            raise ValueError("no working size; _refusal lets no such picture pass")
        resized = [picture.convert("RGB").resize(size, Resampling.LANCZOS) for picture in pictures]
        width, height = size
        wished = {
            "width": width,
            "height": height,
            # Flux Kontext: keep to the size given instead of one from its own list.
            "max_area": width * height,
            "_auto_resize": False,
        }
        accepted = call_arguments(type(self.pipeline))
        inputs = {key: value for key, value in wished.items() if key in accepted}
        return {"image": resized} | inputs

    def _working_size(self, picture: Image) -> tuple[int, int] | None:
        """Return the (width, height) that a picture is worked on in; ``None`` where it is narrow.

        Of the sizes around the ideal one whose sides are multiples of what the networks need, the
        one that distorts least.
        """
        multiple = _side_multiple(self.pipeline)
        width, height = picture.size
        scale = math.sqrt(self._area() / (width * height))
        choices = [
            (across, down)
            for across in _around(width * scale, multiple)
            for down in _around(height * scale, multiple)
        ]

        def stretch(size: tuple[int, int]) -> float:
            ratio = (size[0] / size[1]) / (width / height)
            return max(ratio, 1 / ratio)

        best = min(choices, key=lambda size: (stretch(size), abs(size[0] * size[1] - self._area())))
        return best if stretch(best) < _MOST_STRETCH else None

    def _area(self) -> int:
        if self._settings.width is not None and self._settings.height is not None:
            return self._settings.width * self._settings.height
        latent = pipeline_call.config_value(self.pipeline, "unet", "sample_size")
        latent = latent or getattr(self.pipeline, "default_sample_size", None)
        if not isinstance(latent, int):
            return _NATIVE_SIDE_PX**2
        return int(latent * getattr(self.pipeline, "vae_scale_factor", 8)) ** 2

    def _default(self, argument: str) -> Any:
        return pipeline_call.default_of(self.pipeline, argument)

    def _results(self, output: Any) -> Sequence[Any]:
        return list(output.images)

    def _encode(self, request: GeneratorRequest, values: media.Array) -> bytes:
        import numpy as np
        from PIL import Image

        levels = media.levels_of(values)
        if request.image is not None and request.image.size != levels.shape[1::-1]:
            back = Image.fromarray(levels).resize(request.image.size, Image.Resampling.LANCZOS)
            levels = np.asarray(back)
        return media.png(levels, self._provenance(request))


def _around(side: float, multiple: int) -> tuple[int, int]:
    low = max(1, math.floor(side / multiple))
    return low * multiple, (low + 1) * multiple


def _side_multiple(pipeline: Any) -> int:
    """Return what both sides must be multiples of: a U-Net halves its latents at each level."""
    levels = pipeline_call.config_value(pipeline, "unet", "block_out_channels") or ()
    return pipeline_call.spatial_multiple(pipeline) << max(0, len(levels) - 1)
