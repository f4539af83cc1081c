"""What all generators on diffusers pipelines share: loading, batches, seeds and their failures.

A modality's own module says which arguments its calls take, how many requests fit one call, and
how an output becomes a file.
"""

from __future__ import annotations

import functools
import gc
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from llmbind_cli.console import console
from llmbind_cli.errors import (
    InputDataError,
    LlmbindError,
    PartialFailure,
    PolicyError,
    TemporaryError,
    UsageError,
)
from llmbind_cli.generators import media, pipeline_call, pipeline_folder
from llmbind_cli.generators.base import GeneratedArtifact, GenerationOutcome, GeneratorRequest
from llmbind_cli.generators.pipeline_kind import class_for
from llmbind_cli.generators.pipeline_tokenizers import check_tokenizers, prompt_length
from llmbind_cli.generators.prompt_cache import remember_prompts
from llmbind_cli.generators.settings import GeneratorSettings
from llmbind_cli.nn.device import choose_device, choose_dtype

CUDA_BATCH_SIZE = 4
_DEFAULTS = GeneratorSettings()


class PipelineGenerator(ABC):
    """A frozen diffusers pipeline in memory.

    On the CPU requests run one at a time by default. The kernels choose their order of summation
    by the shape of the batch, so a larger batch moves values by about 1e-6 and now and then a
    pixel by one step of 255; one at a time, the bytes of a file do not depend on its neighbours.
    On a GPU, where a batch pays far more, several run together and that one step may show.
    """

    modality: ClassVar[str]
    result_name: ClassVar[str]
    empty_result: ClassVar[str]
    cuda_batch_size: ClassVar[int] = CUDA_BATCH_SIZE

    def __init__(
        self,
        *,
        pipeline: Any,
        folder: Path,
        name: str,
        batch_size: int,
        sampling: Mapping[str, int | float] | None = None,
        settings: GeneratorSettings = _DEFAULTS,
        dtype: str = "auto",
    ) -> None:
        """Wrap a loaded pipeline; :meth:`load` is the usual way.

        Args:
            pipeline: A diffusers pipeline of this modality on its device.
            folder: Where it was loaded from; the fingerprint reads it.
            name: What results and the files' metadata call it.
            batch_size: Most requests per pipeline call, at least 1.
            sampling: The pipeline's own defaults, from ``sampling.json``.
            settings: What the user asked for; they win over ``sampling``.
            dtype: Value of ``--dtype``; the fingerprint reads it.

        Raises:
            ValueError: ``batch_size`` is below 1.
            UsageError: The pipeline cannot take one of the settings.
            ConfigurationError: The pipeline cannot take what ``sampling`` says.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be ≥ 1, got {batch_size}")
        self.pipeline = pipeline
        self.name = name
        self.folder = folder
        self.batch_size = batch_size
        self._settings = settings
        self._sampling = dict(sampling or {})
        self._dtype = dtype
        self._keywords = pipeline_call.call_keywords(
            pipeline, modality=self.modality, settings=settings, sampling=self._sampling
        )
        self._keywords |= self._own_keywords()
        self._check_negative_prompt()
        remember_prompts(pipeline)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        settings: GeneratorSettings = _DEFAULTS,
        require_safety_checker: bool = False,
        shared: PipelineGenerator | None = None,
    ) -> Self:
        """Check a pipeline folder and load it; never touches the network.

        Args:
            folder: A diffusers pipeline folder with safetensors weights.
            name: What results and the files' metadata call it.
            device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.
            dtype: ``auto`` (float32 on the CPU, bfloat16 on CUDA), ``float32``, ``bfloat16``,
                ``float16``.
            settings: What the user asked for.
            require_safety_checker: Refuse a pipeline without one, as a bundle's policy may ask.
            shared: A generator loaded from the same folder; its networks are used.

        Raises:
            ModelNotFoundError: The folder holds no pipeline.
            IntegrityError: Pickled, truncated, missing, foreign or non-finite weights, or a
                tokenizer without vocabulary.
            PolicyError: The pipeline needs code of its own, or lacks a required safety checker.
            UnavailableError: It is no pipeline of this modality, or a device or package is missing.
            TemporaryError: The device's memory does not hold it.
            ConfigurationError: ``sampling.json`` is wrong.
            UsageError: ``device`` or ``dtype`` is none of those named, or the pipeline cannot take
                one of the settings.
        """
        target = choose_device(device)
        precision = pipeline_dtype(dtype, target)
        if settings.cpu_offload:
            pipeline_call.require_gpu(target)
        media.require_encoder(cls.file_format(settings))
        index = pipeline_folder.read_index(folder)
        sampling = pipeline_folder.read_sampling(folder)
        with pipeline_folder.quiet_libraries():
            found = class_for(pipeline_folder.pipeline_class(folder, index), cls.modality, folder)
            classes = pipeline_folder.component_classes(folder, index)
            if require_safety_checker:
                cls._require_safety_checker(folder, classes)
            pipeline_folder.check_weight_files(folder, list(classes))
            try:
                if shared is None:
                    networks = pipeline_folder.load_components(folder, classes, precision)
                else:
                    networks = shared.networks()
                pipeline = pipeline_folder.assemble(found, folder, networks)
                cls._prepare(pipeline, target, settings)
            except torch.OutOfMemoryError as error:
                raise TemporaryError(
                    f"{folder}: the memory of {target} does not hold the pipeline; free the device "
                    f"or use --device cpu"
                ) from error
        check_tokenizers(folder, pipeline)
        return cls(
            pipeline=pipeline,
            folder=folder,
            name=name,
            batch_size=cls.cuda_batch_size if target.type == "cuda" else 1,
            sampling=sampling,
            settings=settings,
            dtype=dtype,
        )

    @classmethod
    @abstractmethod
    def file_format(cls, settings: GeneratorSettings) -> str:
        """Return the format of the results, a key of :data:`.media.MEDIA_TYPES`."""

    @classmethod
    def _require_safety_checker(cls, folder: Path, classes: Mapping[str, type]) -> None:
        # What a checker looks at is a picture; there is none for sounds.
        if cls.modality != "audio" and "safety_checker" not in classes:
            raise PolicyError(
                f"{folder}: has no safety checker, and the bundle's policy asks for one; name "
                f"another pipeline with --generator {cls.modality}=PATH_OR_ID"
            )

    @classmethod
    def _prepare(cls, pipeline: Any, target: torch.device, settings: GeneratorSettings) -> None:
        preset = pipeline_call.preset_of(settings, cls.modality, pipeline)
        if preset is not None:
            pipeline_call.set_scheduler(pipeline, preset, str(settings.preset))
            steps = preset.steps if settings.steps is None else settings.steps
            guidance = preset.guidance if settings.guidance is None else settings.guidance
            console.log(
                f"{cls.modality}: preset {settings.preset}: {preset.scheduler}, {steps} steps, "
                f"guidance {guidance:g}"
            )
        if settings.vae_slicing:
            pipeline_call.slice_vae(pipeline)
        if settings.cpu_offload:
            pipeline_call.offload(pipeline, target)
        else:
            pipeline.to(target)
        pipeline.set_progress_bar_config(disable=True)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Return the pipeline's networks by component name."""
        parts: Mapping[str, Any] = getattr(self.pipeline, "components", {})
        return {key: part for key, part in parts.items() if isinstance(part, torch.nn.Module)}

    def release(self) -> None:
        """Let go of the networks; the generator cannot be used after this."""
        self.pipeline = None
        # The remembered prompts hold on to the pipeline that they were encoded by, and it to them.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights, the number format and the settings that shape a result."""
        facts = (self.model_hash, self.modality, self._dtype, self._settings.shape(self.modality))
        return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogatepass")).hexdigest()

    @functools.cached_property
    def model_hash(self) -> str:
        """sha256 over the folder's contents; the first use reads all of it."""
        return pipeline_folder.fingerprint(self.folder)

    def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Carry out each request.

        Args:
            requests: Any number.

        Returns:
            For each request, in order, its file or its error: 65 for a prompt that the pipeline
            would cut short, 77 for a result that its safety checker withholds, 3 for one that came
            out empty or not a number, 75 when a single item exceeds the device's memory, 2 when
            the pipeline refuses its arguments.
        """
        outcomes: list[GenerationOutcome | None] = [self._refusal(r) for r in requests]
        groups: dict[Hashable, list[int]] = {}
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                groups.setdefault(self._batch_key(requests[index]), []).append(index)
        for able in groups.values():
            for start in range(0, len(able), self.batch_size):
                chosen = able[start : start + self.batch_size]
                made = self._make([requests[index] for index in chosen])
                for index, outcome in zip(chosen, made, strict=True):
                    outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _check_negative_prompt(self) -> None:
        if not pipeline_call.negative_keywords(self.pipeline, self._settings, self._keywords, 1):
            return
        fit = prompt_length(self.pipeline, str(self._settings.negative_prompt))
        if fit is not None and fit[0] > fit[1]:
            raise UsageError(
                f"--negative-prompt is {fit[0]} tokens long and {self.name} reads {fit[1]}; "
                f"shorten it"
            )

    def _refusal(self, request: GeneratorRequest) -> LlmbindError | None:
        """Say why a request cannot be tried at all."""
        fit = prompt_length(self.pipeline, self._wording(request.prompt))
        if fit is None or fit[0] <= fit[1]:
            return None
        length, limit = fit
        return InputDataError(
            f"the prompt is {length} tokens long and {self.name} reads {limit}; shorten it"
        )

    def _make(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Run one batch; out of memory, run its halves."""
        try:
            with pipeline_folder.quiet_libraries():
                return self._run_pipeline(requests)
        except ValueError as error:
            # diffusers checks a call's arguments with this class.
            reason = f"{self.name} refuses the request: {' '.join(str(error).split())}"
            return [UsageError(reason) for _ in requests]
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
        return self._make(requests[:half]) + self._make(requests[half:])

    def _run_pipeline(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        # Noise drawn on the CPU is the same whichever device the pipeline runs on.
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        output = self.pipeline(
            prompt=[self._wording(request.prompt) for request in requests],
            generator=generators,
            output_type="np",
            **self._keywords,
            **pipeline_call.negative_keywords(
                self.pipeline, self._settings, self._keywords, len(requests)
            ),
            **self._inputs(requests),
        )
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(requests)
        return [
            self._outcome(request, np.asarray(values), bool(np.any(flagged)))
            for request, values, flagged in zip(requests, self._results(output), flags, strict=True)
        ]

    def _outcome(
        self, request: GeneratorRequest, values: media.Array, flagged: bool
    ) -> GenerationOutcome:
        if flagged:
            return PolicyError(
                f"the safety checker of {self.name} withheld the {self.result_name}; try another "
                f"prompt or --seed"
            )
        if not np.isfinite(values).all():
            return PartialFailure(
                f"{self.name} gave values that are not numbers; float16 overflows in some "
                f"pipelines: try --dtype float32"
            )
        if not values.any():
            return PartialFailure(f"{self.name} gave {self.empty_result}; try another --seed")
        kind = self.file_format(self._settings)
        return GeneratedArtifact(
            payload=self._encode(request, values),
            media_type=media.MEDIA_TYPES[kind],
            suffix=f".{kind}",
        )

    def _provenance(self, request: GeneratorRequest) -> media.Provenance:
        return media.Provenance(
            prompt=request.prompt, seed=request.seed, model=self.name, model_hash=self.model_hash
        )

    def _fits(self, prompt: str) -> bool:
        """Tell whether the pipeline reads all of a prompt."""
        fit = prompt_length(self.pipeline, prompt)
        return fit is None or fit[0] <= (self._longest_prompt() or fit[1])

    def _longest_prompt(self) -> int | None:
        """Return the tokens of the longest prompt, where the tokenizer takes longer ones."""
        return None

    def _wording(self, prompt: str) -> str:
        """Return the words for the pipeline, where they differ from those that were asked."""
        return prompt

    def _own_keywords(self) -> dict[str, Any]:
        """Return the arguments that the modality's own settings ask for, or refuse a setting."""
        return {}

    def _batch_key(self, request: GeneratorRequest) -> Hashable:
        """Tell requests apart that cannot share a call."""
        return None

    def _inputs(self, requests: Sequence[GeneratorRequest]) -> dict[str, Any]:
        """Return arguments that differ between calls, beside prompts and generators."""
        return {}

    @abstractmethod
    def _results(self, output: Any) -> Sequence[Any]:
        """Return one array for each request from a pipeline's output."""

    @abstractmethod
    def _encode(self, request: GeneratorRequest, values: media.Array) -> bytes:
        """Return the finite values of one result as the bytes of a file."""


def pipeline_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the parameter type of a ``--dtype`` value; ``auto`` on a CPU is float32.

    Convolutions gain nothing from 16 bits there, and pictures lose.

    Raises:
        UsageError: It names no floating-point type that llmbind runs in.
    """
    if dtype == "auto" and device.type == "cpu":
        return torch.float32
    return choose_dtype(dtype, device)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator has no exception class of its own.
    return "can't allocate memory" in str(error)
