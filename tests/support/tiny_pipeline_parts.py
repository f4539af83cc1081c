"""Random components of a few thousand weights that the small pipelines are put together from."""

from __future__ import annotations

from typing import Any

TOKEN_LIMIT = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokenizer() -> Any:
    """Return a tokenizer of single letters that knows "cat" and "dog"."""
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{x}</w>" for x in LETTERS)]
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    words += ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKEN_LIMIT)


def t5_tokenizer(*, limit: int = TOKEN_LIMIT) -> Any:
    """Return a SentencePiece-like tokenizer of single letters."""
    from transformers import T5Tokenizer

    special = [(word, 0.0) for word in ("<pad>", "</s>", "<unk>")]
    pieces = [("▁", -2.0), ("▁cat", -1.0), ("▁dog", -1.0), *((x, -3.0) for x in LETTERS)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=limit)


def roberta_tokenizer() -> Any:
    """Return a byte-pair tokenizer of single letters."""
    from transformers import RobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *LETTERS, "ca", "cat"]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = [("c", "a"), ("ca", "t")]
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKEN_LIMIT)


def clip_text_encoder(vocab_size: int, *, projection_dim: int | None = None) -> Any:
    """Return a CLIP text model of width 16; with ``projection_dim`` one with a projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2 if projection_dim else 1,
        num_attention_heads=2,
        max_position_embeddings=TOKEN_LIMIT,
        projection_dim=projection_dim or 16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection_dim else CLIPTextModel)(config)


def t5_encoder(*, family: str = "t5") -> Any:
    """Return a T5 encoder of width 16, or a UMT5 one."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    model, config = (T5EncoderModel, T5Config) if family == "t5" else (UMT5EncoderModel, UMT5Config)
    return model(
        config(
            vocab_size=40,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            relative_attention_num_buckets=8,
        )
    ).eval()


def unet(**changes: Any) -> Any:
    """Return a two-level U-Net over 4 latent channels with cross-attention of width 16."""
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": 4,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
    }
    return UNet2DConditionModel(**(settings | changes))


def image_vae(*, latent_channels: int = 4, in_channels: int = 3, levels: int = 2) -> Any:
    """Return a KL autoencoder that halves each side ``levels - 1`` times."""
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        in_channels=in_channels,
        out_channels=in_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    with torch.no_grad():
        # Random decoders are all but grey; a wider last layer gives pictures to tell apart.
        vae.decoder.conv_out.weight.mul_(8)
    return vae


def safety_checker() -> tuple[Any, Any]:
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
