"""Clips from text: any text-to-video diffusers pipeline.

LLMBind (arXiv 2402.14891) makes clips with ModelScope's text-to-video model behind the
``<vid_cap>`` pair, a ``TextToVideoSDPipeline``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmbind_cli.errors import UsageError
from llmbind_cli.generators import media, pipeline_call
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.pipeline_kind import call_arguments
from llmbind_cli.generators.settings import GeneratorSettings

_FPS = {"HunyuanVideoPipeline": 15, "MochiPipeline": 30, "WanPipeline": 16}
_OTHER_FPS = 8
"""What ModelScope's, AnimateDiff's and CogVideoX's weights were trained at."""
_COG_VIDEO_1_5_FPS = 16


class VideoGenerator(PipelineGenerator):
    """A text-to-video pipeline; its results are MP4 (H.264) or GIF files.

    Frames per second follow the setting ``fps``, else the pipeline's ``sampling.json``, else what
    the class's published weights were trained at: diffusers does not save it.
    """

    modality = "video"
    result_name = "clip"
    empty_result = "an all-black clip"
    cuda_batch_size = 1

    @classmethod
    def file_format(cls, settings: GeneratorSettings) -> str:
        """Return ``mp4`` or ``gif``."""
        return settings.video_format

    def _own_keywords(self) -> dict[str, Any]:
        self.fps = self._choose_fps()
        accepted = call_arguments(type(self.pipeline))
        keywords = {"frame_rate": self.fps} if "frame_rate" in accepted else {}
        frames = self._choose_frames()
        if frames is not None and "num_frames" not in accepted:
            name = type(self.pipeline).__name__
            raise UsageError(f"--frames: calls of {name} take no num_frames; leave it out")
        return keywords if frames is None else keywords | {"num_frames": frames}

    def _choose_frames(self) -> int | None:
        frames, step = self._settings.frames, _frame_step(self.pipeline)
        if frames is None and self._settings.seconds is not None:
            more = max(0, math.ceil(self._settings.seconds * self.fps) - 1)
            frames = math.ceil(more / step) * step + 1
        if frames is None:
            return None
        if (frames - 1) % step:
            near = max(1, round((frames - 1) / step)) * step + 1
            raise UsageError(
                f"--frames must be a multiple of {step} and one more for {self.name}, "
                f"got {frames}; {near} is near"
            )
        longest = pipeline_call.config_value(
            self.pipeline, "motion_adapter", "motion_max_seq_length"
        )
        if longest is not None and frames > longest:
            raise UsageError(f"--frames: {self.name} makes at most {longest}, got {frames}")
        return frames

    def _choose_fps(self) -> int:
        if self._settings.fps is not None:
            return self._settings.fps
        if "fps" in self._sampling:
            return int(self._sampling["fps"])
        own = pipeline_call.default_of(self.pipeline, "frame_rate")
        if own is not None:
            return int(own)
        name = type(self.pipeline).__name__
        in_time = pipeline_call.config_value(self.pipeline, "transformer", "patch_size_t")
        if name == "CogVideoXPipeline" and in_time:
            return _COG_VIDEO_1_5_FPS
        return _FPS.get(name, _OTHER_FPS)

    def _results(self, output: Any) -> Sequence[Any]:
        return list(output.frames)

    def _encode(self, request: GeneratorRequest, values: media.Array) -> bytes:
        encode = media.mp4 if self._settings.video_format == "mp4" else media.gif
        return encode(media.levels_of(values), self._provenance(request), fps=self.fps)


def _frame_step(pipeline: Any) -> int:
    """Return s where a pipeline makes clips of n·s + 1 frames only; 1 where any number will do."""
    ratio = int(getattr(pipeline, "vae_scale_factor_temporal", None) or 1)
    # CogVideoX decodes an even number of latent frames to fewer than were asked for.
    return 2 * ratio if type(pipeline).__name__ == "CogVideoXPipeline" else ratio
