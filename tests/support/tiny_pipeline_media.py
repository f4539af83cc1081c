"""Small random pipelines of the video and audio classes, of the very classes real weights have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_pipeline_parts import (
    TOKEN_LIMIT,
    clip_text_encoder,
    clip_tokenizer,
    image_vae,
    roberta_tokenizer,
    t5_encoder,
    t5_tokenizer,
    unet,
)

SAMPLE_RATE_HZ = 8000


def build_media_pipeline(class_name: str, *, seed: int = 0) -> Any:
    """Return a pipeline of a video or audio class."""
    import diffusers
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _PARTS[class_name](getattr(diffusers, class_name))


def _text_to_video(found: Any) -> Any:
    from diffusers import DDIMScheduler, UNet3DConditionModel

    tokenizer = clip_tokenizer()
    return found(
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        unet=UNet3DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=16,
            attention_head_dim=4,
        ),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    )


def _animate_diff(found: Any) -> Any:
    from diffusers import DDIMScheduler, MotionAdapter

    tokenizer = clip_tokenizer()
    return found(
        vae=image_vae(),
        text_encoder=clip_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(
            sample_size=16,
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
        ),
        motion_adapter=MotionAdapter(
            block_out_channels=(8, 8),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
            motion_max_seq_length=8,
            use_motion_mid_block=False,
        ),
        scheduler=DDIMScheduler(clip_sample=False, beta_schedule="linear", steps_offset=1),
    )


def _cog_video(found: Any) -> Any:
    import torch
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXTransformer3DModel,
    )

    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=32,
        sample_width=32,
    )
    with torch.no_grad():
        vae.decoder.conv_out.conv.weight.mul_(8)
    return found(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=vae,
        transformer=CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=16,
            num_layers=1,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            max_text_seq_length=226,
        ),
        scheduler=CogVideoXDDIMScheduler(),
    )


def _wan(found: Any) -> Any:
    import torch
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanTransformer3DModel,
    )

    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(8)
    return found(
        tokenizer=t5_tokenizer(limit=512),
        text_encoder=t5_encoder(family="umt5"),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=16,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
        ),
    )


def _vocoder(mel_bins: int) -> Any:
    import torch
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=mel_bins,
            sampling_rate=SAMPLE_RATE_HZ,
            upsample_initial_channel=16,
            upsample_rates=[8, 4],
            upsample_kernel_sizes=[16, 8],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )
    with torch.no_grad():
        # Random vocoders whisper; a wider last layer gives sounds to tell apart.
        vocoder.conv_post.weight.mul_(30_000)
    return vocoder


def _clap(text_vocabulary: int, *, whole: bool) -> Any:
    from transformers import ClapConfig, ClapModel, ClapTextConfig, ClapTextModelWithProjection

    text = {
        "vocab_size": text_vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKEN_LIMIT + 2,
        "projection_dim": 16,
    }
    if not whole:
        return ClapTextModelWithProjection(ClapTextConfig(**text))
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "window_size": 4,
        "patch_size": 4,
        "patch_stride": 4,
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [1, 1],
        "projection_dim": 16,
    }
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16))


def _audio_ldm(found: Any) -> Any:
    from diffusers import DDIMScheduler

    tokenizer = roberta_tokenizer()
    return found(
        vae=image_vae(in_channels=1),
        text_encoder=_clap(len(tokenizer), whole=False),
        tokenizer=tokenizer,
        unet=unet(
            sample_size=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=(8, 16),
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=16,
            class_embeddings_concat=True,
        ),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        vocoder=_vocoder(8),
    )


def _audio_ldm_2(found: Any) -> Any:
    from diffusers import DDIMScheduler
    from diffusers.pipelines.audioldm2 import (
        AudioLDM2ProjectionModel,
        AudioLDM2UNet2DConditionModel,
    )
    from transformers import ClapFeatureExtractor, GPT2Config, GPT2LMHeadModel

    tokenizer = roberta_tokenizer()
    return found(
        vae=image_vae(in_channels=1),
        text_encoder=_clap(len(tokenizer), whole=True),
        text_encoder_2=t5_encoder(),
        projection_model=AudioLDM2ProjectionModel(
            text_encoder_dim=16, text_encoder_1_dim=16, langauge_model_dim=16
        ),
        language_model=GPT2LMHeadModel(
            GPT2Config(
                vocab_size=40, n_positions=64, n_embd=16, n_layer=1, n_head=2, max_new_tokens=4
            )
        ),
        tokenizer=tokenizer,
        tokenizer_2=t5_tokenizer(),
        feature_extractor=ClapFeatureExtractor(sampling_rate=48_000),
        unet=AudioLDM2UNet2DConditionModel(
            sample_size=32,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=([None, 16], [None, 16]),
            attention_head_dim=8,
        ),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        vocoder=_vocoder(8),
    )


def _stable_audio(found: Any) -> Any:
    import torch
    from diffusers import AutoencoderOobleck, EDMDPMSolverMultistepScheduler, StableAudioDiTModel
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 4, 8],
        channel_multiples=[1, 1, 1],
        decoder_channels=4,
        decoder_input_channels=4,
        audio_channels=2,
        sampling_rate=SAMPLE_RATE_HZ,
    )
    with torch.no_grad():
        vae.decoder.conv2.weight_g.mul_(8)
    return found(
        vae=vae,
        text_encoder=t5_encoder(),
        projection_model=StableAudioProjectionModel(
            text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=8
        ),
        tokenizer=t5_tokenizer(),
        transformer=StableAudioDiTModel(
            sample_size=125,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            out_channels=4,
            cross_attention_dim=16,
            time_proj_dim=8,
            global_states_input_dim=32,
            cross_attention_input_dim=16,
        ),
        scheduler=EDMDPMSolverMultistepScheduler(
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
    )


_PARTS: dict[str, Callable[[Any], Any]] = {
    "TextToVideoSDPipeline": _text_to_video,
    "AnimateDiffPipeline": _animate_diff,
    "CogVideoXPipeline": _cog_video,
    "WanPipeline": _wan,
    "AudioLDMPipeline": _audio_ldm,
    "AudioLDM2Pipeline": _audio_ldm_2,
    "StableAudioPipeline": _stable_audio,
}
