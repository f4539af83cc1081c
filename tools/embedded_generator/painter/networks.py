"""The networks of the generator, in the classes of an ordinary Stable Diffusion pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn import functional

from painter.latents import CHANNELS, SIDE

CAPTION_TOKENS = 32
"""Longest caption, its start and end included."""

PLAN_SIDE = 4
PLAN_TOKENS = PLAN_SIDE**2
"""After its caption the text encoder writes a plan of the picture: one token for each place of a
4 × 4 grid, in the positions that pad the caption."""

TOKENS = CAPTION_TOKENS + PLAN_TOKENS

WIDTH = 256
"""Width of the text encoder."""

READING_LAYERS, PLANNING_LAYERS = 3, 3
"""The first layers read names; the further ones, learnt after them, write the plan."""

_VOCABULARY = 4096
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str]) -> Any:
    """Return a CLIP tokenizer whose byte pairs are those of captions.

    Args:
        captions: Many captions, and every name of every thing.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    # CLIP's own rules (openai/CLIP simple_tokenizer.py): lower case, words, single digits.
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_START, _END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    import json

    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS)


def build_text_encoder(vocabulary: int, layers: int = READING_LAYERS) -> Any:
    """Return a new text encoder; it reads from left to right, as CLIP's.

    Args:
        vocabulary: Number of token ids.
        layers: `READING_LAYERS`, or with `PLANNING_LAYERS` more.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


def with_planning_layers(reader: Any) -> Any:
    """Return a text encoder that begins as another one and has layers for the plan after it.

    Raises:
        ValueError: The other one is no reader of names.
    """
    if reader.config.num_hidden_layers != READING_LAYERS:
        raise ValueError(
            f"a reader has {READING_LAYERS} layers, this one {reader.config.num_hidden_layers}"
        )
    grown = build_text_encoder(reader.config.vocab_size, READING_LAYERS + PLANNING_LAYERS)
    grown.load_state_dict(reader.state_dict(), strict=False)
    return grown


def build_unet() -> Any:
    """Return a new denoiser.

    It looks at the words at both scales, and once more at all of them pooled
    (``addition_embed_type``), which the stock pipeline feeds without being told.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(128, 256),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # heads, not their width: a name that diffusers keeps from earlier
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )


def build_vae() -> Any:
    """Return a new autoencoder between 128 px and the latents of `PatchSpace`."""
    from diffusers import AutoencoderKL

    levels = (16, 32, 64, 128, 128)
    return AutoencoderKL(
        latent_channels=CHANNELS,
        block_out_channels=levels,
        down_block_types=("DownEncoderBlock2D",) * len(levels),
        up_block_types=("UpDecoderBlock2D",) * len(levels),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIDE * 2 ** (len(levels) - 1),
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def build_scheduler() -> Any:
    """Return the noise schedule: cosine, prediction of v (Salimans and Ho, arXiv 2202.00512)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=1,  # unused with this spacing; the stock pipeline asks for it
    )


def token_ids(tokenizer: Any, captions: list[str]) -> Tensor:
    """Return the ids [B, TOKENS] of captions, as the stock pipeline makes them.

    A longer caption is cut where the plan begins.
    """
    ids = tokenizer(
        captions,
        padding="max_length",
        max_length=CAPTION_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return functional.pad(ids, (0, PLAN_TOKENS), value=tokenizer.pad_token_id)
