"""A Stable Diffusion pipeline of a few thousand random weights, saved on disk like a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PICTURE_SIZE_PX = 32
TOKEN_LIMIT = 16


def build_pipeline(*, seed: int = 0, safety_checker: bool = False) -> Any:
    """Return a StableDiffusionPipeline that draws 32 × 32 px from prompts of ≤ 14 letters."""
    import torch
    from diffusers import (
        AutoencoderTiny,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=TOKEN_LIMIT,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
        )
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8)
        )
        with torch.no_grad():
            # Random decoders are all but grey; a wider last layer gives pictures to tell apart.
            vae.decoder.layers[-1].weight.mul_(8)
        checker, extractor = _safety_checker() if safety_checker else (None, None)
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
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


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    words += ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKEN_LIMIT)


def _safety_checker() -> tuple[Any, Any]:
    """Return a checker that flags every picture: its thresholds lie below any cosine."""
    import torch
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2.0)
        checker.special_care_embeds_weights.fill_(2.0)
    size = {"shortest_edge": 16}
    return checker, CLIPImageProcessorPil(size=size, crop_size={"height": 16, "width": 16})
