"""Which modality a diffusers pipeline class serves, told by the arguments of its call."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from llmbind_cli.errors import UnavailableError

_AUDIO = ("audio_length_in_s", "audio_end_in_s")
_VIDEO = ("num_frames", "video_length")
# A call that takes one of these wants more than words and a picture, and most of them need it.
_MORE_THAN_WORDS = (
    "adapter_conditioning_scale",
    "conditions",
    "control_image",
    "control_video",
    "controlnet_conditioning_scale",
    "controls",
    "depth_map",
    "frames",
    "image_embeddings",
    "images",
    "layers",
    "mask_image",
    "noise_level",
    "prior_guidance_scale",
    "reference_image",
    "source_prompt",
    "video",
)
_EDITS_BY_INSTRUCTION = (
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
)


def call_arguments(found: type) -> dict[str, Any]:
    """Return argument name → default of a pipeline class's call, without ``self``."""
    parameters = inspect.signature(found.__call__).parameters
    return {name: value.default for name, value in parameters.items() if name != "self"}


def modality_of(found: type) -> tuple[str | None, str]:
    """Tell which modality a pipeline class serves, and why.

    Args:
        found: A diffusers pipeline class.

    Returns:
        ``image``, ``edit``, ``video`` or ``audio``, or ``None`` where llmbind has no use for it;
        and the reason in a few words.
    """
    arguments = call_arguments(found)
    more = [name for name in _MORE_THAN_WORDS if name in arguments]
    if "prompt" not in arguments or more:
        return None, f"its calls take {', '.join(more) or 'no prompt'}"
    for modality, telling in (("audio", _AUDIO), ("video", _VIDEO)):
        named = [name for name in telling if name in arguments]
        if named:
            pictured = "image" in arguments
            also = "image and " if pictured else ""
            return None if pictured else modality, f"its calls take {also}{', '.join(named)}"
    if "image" in arguments:
        edits = found.__name__ in _EDITS_BY_INSTRUCTION or found in _image_to_image_classes()
        return "edit" if edits else None, "its calls take image"
    if "height" not in arguments:
        return None, "its calls take no height"
    return "image", "its calls take a prompt and the size of a picture"


def class_for(found: type, modality: str, folder: Path) -> type:
    """Return the class that runs a folder's pipeline for a modality.

    That is the class itself, or for edits the image-to-image class that shares its networks.

    Args:
        found: The class that the folder's index names.
        modality: What is to be made.
        folder: Named in errors.

    Raises:
        UnavailableError: The class makes something else.
    """
    kind, why = modality_of(found)
    if kind == modality or (modality == "image" and found in _text_to_image_classes().values()):
        return found  # Flux Kontext and its like edit, and draw from words alone as well
    if modality == "edit" and kind == "image":
        sibling = _image_to_image(found)
        if sibling is not None:
            return sibling
        why = "and diffusers has no image-to-image class for its networks"
    what = f"a pipeline for {kind}" if kind else "not of a kind that llmbind runs"
    hint = f"use it as --generator {kind}=… or " if kind else ""
    raise UnavailableError(
        f"{folder}: {found.__name__} is no pipeline for {modality} but {what} ({why}); {hint}name "
        f"another with --generator {modality}=PATH_OR_ID"
    )


def _image_to_image_classes() -> list[type]:
    from diffusers.pipelines.auto_pipeline import AUTO_IMAGE2IMAGE_PIPELINES_MAPPING

    return list(AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values())


def _text_to_image_classes() -> dict[str, type]:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    return {
        family: found
        for family, found in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items()
        if not any(name in call_arguments(found) for name in _MORE_THAN_WORDS)
    }


def _image_to_image(found: type) -> type | None:
    from diffusers.pipelines.auto_pipeline import AUTO_IMAGE2IMAGE_PIPELINES_MAPPING

    for family, drawing in _text_to_image_classes().items():
        editing: type | None = AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.get(family)
        if drawing is found and editing is not None and modality_of(editing)[0] == "edit":
            return editing
    return None
