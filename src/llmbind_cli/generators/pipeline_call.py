"""Settings as keyword arguments of a pipeline's call; what a pipeline cannot take is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbind_cli.errors import ConfigurationError, UnavailableError, UsageError
from llmbind_cli.generators.pipeline_kind import call_arguments
from llmbind_cli.generators.settings import GeneratorSettings, flag_of

_LCM_EMBEDDED_GUIDANCE = 8.5  # the default of diffusers' own pipelines for these weights


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How weights that were distilled to few steps are run.

    Attributes:
        scheduler: Class name in diffusers.
        options: Changes to the configuration that the pipeline's scheduler was saved with.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; at 1 and below there is none.
        strength: Of image-to-image edits; ``None`` keeps the pipeline's own.
    """

    scheduler: str
    options: Mapping[str, Any]
    steps: int
    guidance: float
    strength: float | None = None


# Latent consistency models (arXiv 2310.04378) and adversarial diffusion distillation
# (arXiv 2311.17042), as their authors sample from them. An edit at strength s runs steps × s steps.
_LCM = Preset(scheduler="LCMScheduler", options={}, steps=4, guidance=1.0)
_TURBO_OPTIONS = {"timestep_spacing": "trailing"}
_TURBO = Preset(
    scheduler="EulerAncestralDiscreteScheduler", options=_TURBO_OPTIONS, steps=1, guidance=0.0
)
_TURBO_EDIT = Preset(
    scheduler="EulerAncestralDiscreteScheduler",
    options=_TURBO_OPTIONS,
    steps=2,
    guidance=0.0,
    strength=0.5,
)


def preset_of(settings: GeneratorSettings, modality: str, pipeline: Any) -> Preset | None:
    """Return what the settings' preset means for a pipeline, or ``None`` without one."""
    if settings.preset is None:
        return None
    if settings.preset == "turbo":
        return _TURBO_EDIT if modality == "edit" and _takes(pipeline, "strength") else _TURBO
    if _has_embedded_guidance(pipeline):
        return Preset(
            scheduler=_LCM.scheduler,
            options=_LCM.options,
            steps=_LCM.steps,
            guidance=_LCM_EMBEDDED_GUIDANCE,
        )
    return _LCM


def set_scheduler(pipeline: Any, preset: Preset, name: str) -> None:
    """Give a pipeline the scheduler of a preset.

    Args:
        pipeline: A diffusers pipeline.
        preset: From :func:`preset_of`.
        name: Value of ``preset``, for the error.

    Raises:
        UsageError: The pipeline's weights follow another kind of diffusion, such as flow matching.
    """
    import diffusers

    wanted = getattr(diffusers, preset.scheduler)
    own = pipeline.scheduler
    family = {found.__name__ for found in diffusers.EulerDiscreteScheduler().compatibles}
    if type(own).__name__ not in family | {"LCMScheduler"}:
        raise UsageError(
            f"--preset {name}: {type(pipeline).__name__} runs with {type(own).__name__}, whose "
            f"weights {preset.scheduler} cannot sample; leave it out"
        )
    pipeline.scheduler = wanted.from_config(own.config, **preset.options)


def slice_vae(pipeline: Any) -> None:
    """Have the pictures of a batch decoded one after another.

    Raises:
        UsageError: The pipeline has no decoder that can.
    """
    try:
        pipeline.vae.enable_slicing()
    except (AttributeError, NotImplementedError) as error:
        raise UsageError(f"--vae-slicing: the decoder of {_name(pipeline)} cannot") from error


def offload(pipeline: Any, device: Any) -> None:
    """Keep the networks in main memory and move each to the device while it works.

    Raises:
        UnavailableError: The device is no GPU.
    """
    require_gpu(device)
    pipeline.enable_model_cpu_offload(device=device)


def require_gpu(device: Any) -> None:
    """Refuse CPU offload where there is nothing to offload from.

    Raises:
        UnavailableError: The device is no GPU.
    """
    if device.type != "cuda":
        raise UnavailableError(
            f"--cpu-offload moves networks off a CUDA device, and this run is on {device}; "
            f"leave it out"
        )


def call_keywords(
    pipeline: Any,
    *,
    modality: str,
    settings: GeneratorSettings,
    sampling: Mapping[str, int | float],
) -> dict[str, Any]:
    """Return the keyword arguments that every call of a pipeline gets.

    ``sampling.json`` comes first, a preset wins over it, and a setting wins over both.

    Args:
        pipeline: A diffusers pipeline, or anything called like one.
        modality: Of the generator.
        settings: What the user asked for.
        sampling: The pipeline's own defaults; ``fps`` is no argument of a call and left out.

    Returns:
        Without ``negative_prompt``, which :func:`negative_keywords` adds.

    Raises:
        UsageError: The pipeline cannot take a setting.
        ConfigurationError: The pipeline cannot take what its own ``sampling.json`` says.
    """
    guidance = _guidance_argument(pipeline)
    keywords: dict[str, Any] = {}
    for key, value in sampling.items():
        if key == "fps":
            continue
        argument = guidance if key == "guidance_scale" else key
        if not _takes(pipeline, argument):
            raise ConfigurationError(f"sampling.json: calls of {_name(pipeline)} take no {key}")
        keywords[argument] = value
    wished: dict[str, tuple[str, Any]] = {}
    preset = preset_of(settings, modality, pipeline)
    if preset is not None:
        wished = {
            "num_inference_steps": ("preset", preset.steps),
            guidance: ("preset", preset.guidance),
        }
        if preset.strength is not None:
            wished["strength"] = ("preset", preset.strength)
    if settings.steps is not None:
        wished["num_inference_steps"] = ("steps", settings.steps)
    if settings.guidance is not None:
        wished[guidance] = ("guidance", settings.guidance)
    if modality == "edit" and settings.strength is not None:
        wished["strength"] = ("strength", settings.strength)
    if modality in ("image", "video") and settings.width is not None:
        _check_sides(pipeline, settings)
        wished["width"], wished["height"] = ("width", settings.width), ("height", settings.height)
    for argument, (setting, value) in wished.items():
        if not _takes(pipeline, argument):
            raise UsageError(
                f"{flag_of(setting)}: calls of {_name(pipeline)} take no {argument}; "
                f"leave it out or name another pipeline"
            )
        keywords[argument] = value
    return keywords


def negative_keywords(
    pipeline: Any, settings: GeneratorSettings, keywords: Mapping[str, Any], count: int
) -> dict[str, Any]:
    """Return the keyword of the negative prompt for a batch, if there is one.

    Args:
        pipeline: A diffusers pipeline.
        settings: What the user asked for.
        keywords: From :func:`call_keywords`.
        count: Size of the batch.

    Raises:
        UsageError: The pipeline would not read it, since it has none, or runs without guidance.
    """
    if settings.negative_prompt is None:
        return {}
    if not _takes(pipeline, "negative_prompt"):
        raise UsageError(f"--negative-prompt: calls of {_name(pipeline)} take none; leave it out")
    argument = _guidance_argument(pipeline)
    scale = keywords.get(argument, default_of(pipeline, argument))
    dual = default_of(pipeline, "true_cfg_scale")
    unread = _has_embedded_guidance(pipeline) or (dual is not None and dual <= 1)
    if unread or (scale is not None and scale <= 1):
        raise UsageError(
            f"--negative-prompt: {_name(pipeline)} reads one only with classifier-free guidance, "
            f"and runs without; leave it out" + ("" if unread else " or set --guidance above 1")
        )
    return {"negative_prompt": [settings.negative_prompt] * count}


def default_of(pipeline: Any, argument: str) -> Any:
    """Return the default of a call's argument, ``None`` where it has none."""
    default = call_arguments(type(pipeline)).get(argument)
    return None if default is inspect.Parameter.empty else default


def spatial_multiple(pipeline: Any) -> int:
    """Return what the sides of a pipeline's pictures must be multiples of, px."""
    vae = getattr(pipeline, "vae_scale_factor_spatial", None)
    vae = vae or getattr(pipeline, "vae_scale_factor", None) or 8
    patch = config_value(pipeline, "transformer", "patch_size") or 1
    patch = patch[-1] if isinstance(patch, list | tuple) else patch
    own = config_value(pipeline, "image_processor", "vae_scale_factor") or 1
    return max(int(vae) * int(patch), int(own))


def config_value(pipeline: Any, component: str, key: str) -> Any:
    """Return one value of a component's configuration, ``None`` where there is none."""
    return getattr(getattr(getattr(pipeline, component, None), "config", None), key, None)


def _check_sides(pipeline: Any, settings: GeneratorSettings) -> None:
    multiple = spatial_multiple(pipeline)
    for side in ("width", "height"):
        value = getattr(settings, side)
        if value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise UsageError(
                f"{flag_of(side)} must be a multiple of {multiple} px for {_name(pipeline)}, "
                f"got {value}; {near} is near"
            )


def _guidance_argument(pipeline: Any) -> str:
    """Name the argument that scales classifier-free guidance.

    Where a call has both, ``guidance_scale`` goes into distilled weights as a number unless the
    pipeline runs with true guidance by default.
    """
    true_scale = default_of(pipeline, "true_cfg_scale")
    return "true_cfg_scale" if true_scale is not None and true_scale > 1 else "guidance_scale"


def _has_embedded_guidance(pipeline: Any) -> bool:
    return config_value(pipeline, "unet", "time_cond_proj_dim") is not None


def _takes(pipeline: Any, argument: str) -> bool:
    return argument in call_arguments(type(pipeline))


def _name(pipeline: Any) -> str:
    return type(pipeline).__name__
