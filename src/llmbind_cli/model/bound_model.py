"""The model in memory: a frozen LLM bound to a token table, and to what it sees with."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmbind_cli.model.chat_format import ImageSlot
from llmbind_cli.model.config import BundleConfig
from llmbind_cli.model.vision.picture_memory import PictureMemory
from llmbind_cli.model.vision.sight import Sight
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
        sight: What it sees with; ``None`` for a bundle that reads words only.
    """

    config: BundleConfig
    tokenizer: Any
    language_model: nn.Module
    token_table: TokenTable
    fingerprint: str
    sight: Sight | None = None

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

    @functools.cached_property
    def pictures(self) -> PictureMemory | None:
        """The pictures that it has seen lately; ``None`` without sight."""
        return None if self.sight is None else PictureMemory(self.sight)

    @property
    def image_slot(self) -> ImageSlot | None:
        """What a picture takes up in a conversation; ``None`` without sight."""
        if self.sight is None:
            return None
        ids = [int(self.tokenizer.convert_tokens_to_ids(m)) for m in self.sight.config.image_marks]
        return ImageSlot(
            num_tokens=self.sight.num_tokens, before=tuple(ids[:1]), after=tuple(ids[1:])
        )

    def embed(self, input_ids: Tensor, image_table: Tensor) -> Tensor:
        """Embed ids, those below 0 from a table of pictures.

        Args:
            input_ids: int64 [...]; ``-1 - n`` takes row ``n`` of the table.
            image_table: Embeddings of pictures, one after another, float [R, D].

        Returns:
            [..., D], in the dtype of the LLM's embedding.

        Raises:
            IndexError: An id asks for a row that the table has not (on the CPU).
        """
        is_image = input_ids < 0
        embedding: nn.Module = self.language_model.get_input_embeddings()  # type: ignore[operator]
        words: Tensor = embedding(input_ids.masked_fill(is_image, 0))
        rows = image_table.to(words.dtype)[(-1 - input_ids).clamp(min=0)]
        return torch.where(is_image[..., None], rows, words)

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
