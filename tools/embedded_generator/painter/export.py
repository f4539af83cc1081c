"""Put the trained parts together as an ordinary Stable Diffusion pipeline, small on disk.

Weights with two and more axes are stored as 8-bit floats (e4m3: 3 bits of mantissa), the others as
16-bit floats. `from_pretrained` of diffusers and transformers reads both like any other format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

STEPS, GUIDANCE = 12, 2.0


def export(work: Path, out: Path, *, eight_bit: bool = True) -> None:
    """Write the pipeline.

    Args:
        work: Folder with ``unet_lively``, ``text_encoder``, ``tokenizer`` and ``vae``.
        out: The pipeline's folder.
        eight_bit: Store large weights in 8 bits; else all in 16.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    from painter.networks import CAPTION_TOKENS, build_scheduler

    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet_lively"),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    for path in out.rglob("*.safetensors"):
        tensors = {key: _stored(value, eight_bit) for key, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    for path in out.glob("*/config.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)  # a folder of the machine that trained it
        _write(path, content, indent=2)
    _write(out / "sampling.json", {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE})
    _write(out / "prompts.json", {"world": "scenes", "longest": CAPTION_TOKENS})


def _stored(weight: torch.Tensor, eight_bit: bool) -> torch.Tensor:
    if eight_bit and weight.ndim >= 2:
        return weight.to(torch.float8_e4m3fn)
    return weight.half()


def _write(path: Path, content: dict[str, Any], *, indent: int = 1) -> None:
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
