"""Small random pipelines of the picture classes, each of the very class that real weights have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_pipeline_parts import (
    TOKEN_LIMIT,
    clip_text_encoder,
    clip_tokenizer,
    image_vae,
    t5_encoder,
    t5_tokenizer,
    unet,
)


def build_picture_pipeline(class_name: str, *, seed: int = 0) -> Any:
    """Return a pipeline of a picture class; every one draws 32 × 32 px unless told otherwise."""
    import diffusers
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _PARTS[class_name](getattr(diffusers, class_name))


def _one_encoder(found: Any) -> Any:
    return _stable_diffusion(found, unet(sample_size=16))


def _instruct(found: Any) -> Any:
    return _stable_diffusion(found, unet(sample_size=16, in_channels=8))


def _consistency(found: Any) -> Any:
    from diffusers import LCMScheduler

    network = unet(sample_size=16, time_cond_proj_dim=8)
    return _stable_diffusion(found, network, LCMScheduler(clip_sample=False))


def _stable_diffusion(found: Any, network: Any, scheduler: Any = None) -> Any:
    from diffusers import PNDMScheduler

    tokenizer = clip_tokenizer()
    return found(
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        unet=network,
        scheduler=scheduler or PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl(found: Any) -> Any:
    return _stable_diffusion_xl(found, 4, 6)


def _xl_refiner(found: Any) -> Any:
    return _stable_diffusion_xl(found, 4, 5, requires_aesthetics_score=True)


def _xl_instruct(found: Any) -> Any:
    return _stable_diffusion_xl(found, 8, 6)


def _stable_diffusion_xl(found: Any, channels: int, time_ids: int, **options: Any) -> Any:
    from diffusers import EulerDiscreteScheduler

    tokenizers = [clip_tokenizer(), clip_tokenizer()]
    network = unet(
        sample_size=16,
        in_channels=channels,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 8 * time_ids,
    )
    first = clip_text_encoder(len(tokenizers[0]))
    first.config.num_hidden_layers = 1
    return found(
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizers[0])),
        text_encoder_2=clip_text_encoder(len(tokenizers[1]), projection_dim=16),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=network,
        scheduler=EulerDiscreteScheduler(steps_offset=1),
        **options,
    )


def _stable_diffusion_3(found: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    tokenizer = clip_tokenizer()
    return found(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizer), projection_dim=16),
        tokenizer=tokenizer,
        text_encoder_2=clip_text_encoder(len(tokenizer), projection_dim=16),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder_of_width_32(),
        tokenizer_3=t5_tokenizer(),
    )


def t5_encoder_of_width_32() -> Any:
    """Return a T5 encoder as wide as the two CLIP encoders together, as SD 3 needs it."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def _flux(found: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    tokenizer = clip_tokenizer()
    return found(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(limit=2 * TOKEN_LIMIT),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
    )


_PARTS: dict[str, Callable[[Any], Any]] = {
    "StableDiffusionPipeline": _one_encoder,
    "StableDiffusionImg2ImgPipeline": _one_encoder,
    "LatentConsistencyModelPipeline": _consistency,
    "LatentConsistencyModelImg2ImgPipeline": _consistency,
    "StableDiffusionInstructPix2PixPipeline": _instruct,
    "StableDiffusionXLPipeline": _xl,
    "StableDiffusionXLImg2ImgPipeline": _xl_refiner,
    "StableDiffusionXLInstructPix2PixPipeline": _xl_instruct,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "StableDiffusion3Img2ImgPipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
    "FluxImg2ImgPipeline": _flux,
    "FluxKontextPipeline": _flux,
}
