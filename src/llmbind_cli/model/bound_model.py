"""The model in memory: a frozen LLM bound to a token table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llmbind_cli.model.config import BundleConfig
from llmbind_cli.tokens import TokenTable


@dataclass(kw_only=True)
class BoundModel:
    """A language model with its adapters, tokenizer and token table.

    Attributes:
        config: The bundle's configuration.
        tokenizer: The tokenizer with the task tokens registered.
        language_model: The causal LM, adapters and token rows in place.
        token_table: The task tokens that the bundle serves, bound to the tokenizer's ids.
        fingerprint: sha256 over the bundle's own weights; names the model in results.
    """

    config: BundleConfig
    tokenizer: Any
    language_model: nn.Module
    token_table: TokenTable
    fingerprint: str

    @property
    def name(self) -> str:
        """The bundle's name and the start of its fingerprint, as results give it."""
        return f"{self.config.name}@{self.fingerprint[:12]}"

    @property
    def device(self) -> torch.device:
        """Where the model, and so every input, lives."""
        return next(self.language_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen weights, which is not that of adapters and token rows."""
        embedding: nn.Module = self.language_model.get_input_embeddings()  # type: ignore[operator]
        dtype: torch.dtype = embedding.base_layer.weight.dtype  # type: ignore[union-attr, assignment]
        return dtype

    @property
    def max_positions(self) -> int:
        """Longest context, in tokens, that the LLM was made for."""
        return int(self.language_model.config.max_position_embeddings)  # type: ignore[arg-type, union-attr]

    @property
    def decoder(self) -> nn.Module:
        """The stack of blocks: ids → hidden states ``[B, T, D]``."""
        decoder: nn.Module = self.language_model.get_decoder()  # type: ignore[operator]
        return decoder

    @property
    def output_head(self) -> nn.Module:
        """The output layer: hidden states ``[…, D]`` → logits ``[…, V]``."""
        head: nn.Module = self.language_model.get_output_embeddings()  # type: ignore[operator]
        return head
