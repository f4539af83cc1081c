"""A Stable Diffusion pipeline of a few thousand random weights, saved on disk like a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_pipeline_parts import clip_text_encoder, clip_tokenizer, unet
from tiny_pipeline_parts import safety_checker as small_safety_checker

PICTURE_SIZE_PX = 32


def build_pipeline(*, seed: int = 0, safety_checker: bool = False) -> Any:
    """Return a StableDiffusionPipeline that draws 32 × 32 px from prompts of ≤ 14 letters."""
    import torch
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        text_encoder = clip_text_encoder(len(tokenizer))
        network = unet()
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8)
        )
        with torch.no_grad():
            # Random decoders are all but grey; a wider last layer gives pictures to tell apart.
            vae.decoder.layers[-1].weight.mul_(8)
        checker, extractor = small_safety_checker() if safety_checker else (None, None)
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=network,
            scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=checker,
            feature_extractor=extractor,
            requires_safety_checker=safety_checker,
        )


def save_pipeline(folder: Path, *, seed: int = 0, safety_checker: bool = False) -> Path:
    """Save the pipeline with a ``sampling.json`` of two steps, and return the folder."""
    build_pipeline(seed=seed, safety_checker=safety_checker).save_pretrained(folder)
    settings = {"num_inference_steps": 2, "guidance_scale": 2.0}
    (folder / "sampling.json").write_text(json.dumps(settings))
    return folder
