"""Small random causal LMs of the families that people use as base, saved as transformers does."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_tokenizers import byte_level
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "qwen": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": False}),
    "mistral": (MistralConfig, MistralForCausalLM, {"tie_word_embeddings": False}),
}
PADDING_ROWS = {"qwen": 64}
"""Rows of the embedding matrix beyond the tokenizer's entries, as Qwen has them."""


def save_base(directory: Path, family: str = "llama", *, seed: int = 0) -> Path:
    """Save a base model with its tokenizer; return the directory."""
    tokenizer = byte_level()
    config_class, model_class, options = FAMILIES[family]
    config = config_class(
        vocab_size=len(tokenizer) + PADDING_ROWS.get(family, 0),
        **SIZES,
        **options,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    model = model_class(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
