"""Images from text: any text-to-image diffusers pipeline, held as it was saved.

LLMBind (arXiv 2402.14891) draws with Stable Diffusion behind the ``<gen>`` pair; any pipeline
that takes a prompt and gives pictures stands in for it without retraining.
"""

from __future__ import annotations

import functools
import inspect
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmbind_cli import __version__
from llmbind_cli.errors import (
    InputDataError,
    LlmbindError,
    PartialFailure,
    PolicyError,
    TemporaryError,
    UnavailableError,
)
from llmbind_cli.generators import pipeline_folder
from llmbind_cli.generators.base import GeneratedArtifact, GenerationOutcome, GeneratorRequest
from llmbind_cli.nn.device import choose_device, choose_dtype

CUDA_BATCH_SIZE = 4
_OTHER_MODALITIES = ("image", "num_frames", "video_length", "audio_length_in_s", "audio_end_in_s")


class ImageGenerator:
    """A text-to-image pipeline in memory.

    On the CPU requests run one at a time by default. The kernels choose their order of summation
    by the shape of the batch, so a larger batch moves values by about 1e-6 and now and then a
    pixel by one step of 255; one at a time, the bytes of a file do not depend on its neighbours.
    On a GPU, where a batch pays far more, four run together and that one step may show.
    """

    modality = "image"

    def __init__(
        self,
        *,
        pipeline: Any,
        folder: Path,
        name: str,
        batch_size: int,
        sampling: Mapping[str, int | float] | None = None,
    ) -> None:
        """Wrap a loaded pipeline; :func:`load_image_generator` is the usual way.

        Args:
            pipeline: A text-to-image diffusers pipeline on its device.
            folder: Where it was loaded from; the fingerprint reads it.
            name: What results and the files' metadata call it.
            batch_size: Most requests per pipeline call, at least 1.
            sampling: Keyword arguments of every pipeline call, from ``sampling.json``; what it
                leaves out follows the pipeline's own defaults.

        Raises:
            ValueError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be ≥ 1, got {batch_size}")
        self.pipeline = pipeline
        self.name = name
        self.batch_size = batch_size
        self._folder = folder
        self._sampling = dict(sampling or {})

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the folder's contents; the first use reads all of it."""
        return pipeline_folder.fingerprint(self._folder)

    def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Draw one picture for each request.

        Args:
            requests: Any number; their ``image`` is not looked at.

        Returns:
            For each request, in order, a PNG of the pipeline's own size (8-bit RGB, with
            ``prompt``, ``seed``, ``model`` and ``software`` as text chunks) or its error: 65 for
            a prompt that the pipeline would cut short, 77 for a picture that its safety checker
            withholds, 3 for one that came out black or not a number, 75 when a single item
            exceeds the device's memory.
        """
        outcomes: list[GenerationOutcome | None] = [self._too_long(r.prompt) for r in requests]
        able = [index for index, outcome in enumerate(outcomes) if outcome is None]
        for start in range(0, len(able), self.batch_size):
            chosen = able[start : start + self.batch_size]
            drawn = self._draw([requests[index] for index in chosen])
            for index, outcome in zip(chosen, drawn, strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _too_long(self, prompt: str) -> LlmbindError | None:
        """Say whether every tokenizer of the pipeline would drop the end of the prompt.

        Pipelines with several text encoders give the whole prompt to the widest one.
        """
        found = pipeline_folder.tokenizers(self.pipeline).values()
        widest = max(found, key=lambda tokenizer: tokenizer.model_max_length, default=None)
        if widest is None:
            return None
        length = len(widest(prompt, truncation=False, verbose=False).input_ids)
        if length <= widest.model_max_length:
            return None
        return InputDataError(
            f"the prompt is {length} tokens long and {self.name} reads "
            f"{widest.model_max_length}; shorten it"
        )

    def _draw(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Run one batch; out of memory, run its halves."""
        try:
            return self._run_pipeline(requests)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        # Outside the handler, so that the failed call's tensors are free by now.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(requests) == 1:
            return [
                TemporaryError(
                    f"{self.name} exceeds the memory of {self.pipeline.device} with a single "
                    f"item; free the device or use another with --device"
                )
            ]
        half = len(requests) // 2
        return self._draw(requests[:half]) + self._draw(requests[half:])

    def _run_pipeline(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        # Noise drawn on the CPU is the same whichever device the pipeline runs on.
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        output = self.pipeline(
            prompt=[request.prompt for request in requests],
            generator=generators,
            output_type="np",
            **self._sampling,
        )
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(requests)
        return [
            self._outcome(request, pixels, bool(flagged))
            for request, pixels, flagged in zip(requests, output.images, flags, strict=True)
        ]

    def _outcome(
        self, request: GeneratorRequest, pixels: np.ndarray[Any, Any], flagged: bool
    ) -> GenerationOutcome:
        """Turn pixels [height, width, 3] in [0, 1] into a PNG, or say why not."""
        if flagged:
            return PolicyError(
                f"the safety checker of {self.name} withheld the picture; try another prompt or "
                f"--seed"
            )
        if not np.isfinite(pixels).all():
            return PartialFailure(
                f"{self.name} gave values that are not numbers; float16 overflows in some "
                f"pipelines: try --dtype float32"
            )
        if not pixels.any():
            return PartialFailure(f"{self.name} gave an all-black picture; try another --seed")
        levels = (pixels.clip(0.0, 1.0) * 255).round().astype(np.uint8)
        return GeneratedArtifact(
            payload=self._png(request, levels), media_type="image/png", suffix=".png"
        )

    def _png(self, request: GeneratorRequest, levels: np.ndarray[Any, Any]) -> bytes:
        from PIL import Image, PngImagePlugin

        facts = {
            # A lone surrogate cannot be written as UTF-8.
            "prompt": request.prompt.encode("utf-8", "replace").decode("utf-8"),
            "seed": str(request.seed),
            "model": self.name,
            "software": f"llmbind {__version__}",
        }
        chunks = PngImagePlugin.PngInfo()
        for key, value in facts.items():
            chunks.add_itxt(key, value)
        stream = io.BytesIO()
        Image.fromarray(levels).convert("RGB").save(stream, format="PNG", pnginfo=chunks)
        return stream.getvalue()


def load_image_generator(
    folder: Path,
    *,
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    require_safety_checker: bool = False,
) -> ImageGenerator:
    """Check a pipeline folder and load it; never touches the network.

    Args:
        folder: A diffusers pipeline folder with safetensors weights.
        name: What results and the files' metadata call it.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto`` (float32 on the CPU, bfloat16 on CUDA), ``float32``, ``bfloat16``,
            ``float16``.
        require_safety_checker: Refuse a pipeline without one, as a bundle's policy may ask.

    Raises:
        ModelNotFoundError: The folder holds no pipeline.
        IntegrityError: Pickled, truncated, missing, foreign or non-finite weights, or a
            tokenizer without vocabulary.
        PolicyError: The pipeline needs code of its own, or lacks a required safety checker.
        UnavailableError: It is no text-to-image pipeline, or there is no such device.
        TemporaryError: The device's memory does not hold it.
        ConfigurationError: ``sampling.json`` is wrong.
        UsageError: ``device`` or ``dtype`` is none of those named.
    """
    target = choose_device(device)
    precision = pipeline_dtype(dtype, target)
    index = pipeline_folder.read_index(folder)
    sampling = pipeline_folder.read_sampling(folder)
    with pipeline_folder.quiet_libraries():
        found = pipeline_folder.pipeline_class(folder, index)
        _require_text_to_image(found, folder)
        classes = pipeline_folder.component_classes(folder, index)
        if require_safety_checker and "safety_checker" not in classes:
            raise PolicyError(
                f"{folder}: has no safety checker, and the bundle's policy asks for one; name "
                f"another pipeline with --generator image=PATH_OR_ID"
            )
        pipeline_folder.check_weight_files(folder, list(classes))
        try:
            networks = pipeline_folder.load_components(folder, classes, precision)
            pipeline = pipeline_folder.assemble(found, folder, networks).to(target)
        except torch.OutOfMemoryError as error:
            raise TemporaryError(
                f"{folder}: the memory of {target} does not hold the pipeline; free the device or "
                f"use --device cpu"
            ) from error
    pipeline_folder.check_tokenizers(folder, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return ImageGenerator(
        pipeline=pipeline,
        folder=folder,
        name=name,
        batch_size=CUDA_BATCH_SIZE if target.type == "cuda" else 1,
        sampling=sampling,
    )


def pipeline_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the parameter type of a ``--dtype`` value; ``auto`` on a CPU is float32.

    Convolutions gain nothing from 16 bits there, and pictures lose.

    Raises:
        UsageError: It names no floating-point type that llmbind runs in.
    """
    if dtype == "auto" and device.type == "cpu":
        return torch.float32
    return choose_dtype(dtype, device)


def _require_text_to_image(found: type, folder: Path) -> None:
    accepted = inspect.signature(found.__call__).parameters
    other = [name for name in _OTHER_MODALITIES if name in accepted]
    if "prompt" not in accepted or other:
        why = f"its calls take {', '.join(other)}" if other else "its calls take no prompt"
        raise UnavailableError(
            f"{folder}: {found.__name__} is no text-to-image pipeline ({why}); name one with "
            f"--generator image=PATH_OR_ID"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator has no exception class of its own.
    return "can't allocate memory" in str(error)
