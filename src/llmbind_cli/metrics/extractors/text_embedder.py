"""The words' half of CLIP (arXiv 2103.00020) and CLAP (arXiv 2211.06687), alike in both.

Notation: B texts or media of a batch, P the width of the space in which both compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from llmbind_cli.errors import IntegrityError
from llmbind_cli.metrics.extractors.extractor import Array
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.metrics.extractors.transformer_folder import load_tokenizer


class TextEmbedder:
    """Turns texts into vectors that compare with those of pictures or sounds.

    Args:
        network: Of transformers, with ``text_model`` and ``text_projection``.
        weights: The folder that it was loaded from, with its tokenizer.
        device: Where it runs.
        limit: Tokens that a text may have.
        tokenizer_folder: Where the tokenizer is, if not beside the weights.

    Attributes:
        title: What messages call the network.
    """

    title: ClassVar[str]

    def __init__(
        self,
        network: Any,
        weights: LocatedWeights,
        *,
        device: torch.device,
        limit: int,
        tokenizer_folder: Path | None = None,
    ) -> None:
        self.network, self.weights, self.device, self.limit = network, weights, device, limit
        self._tokenizer_folder = tokenizer_folder or weights.folder
        self._tokenizer: Any = None

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Turn texts into unit vectors, float64, [B, P].

        Raises:
            ModelNotFoundError: There is no folder for the tokenizer.
            IntegrityError: The folder has no tokenizer, or that of another network.
            ValueError: A text has more tokens than the network reads; see :meth:`count_tokens`.
        """
        for text in texts:
            if (count := self.count_tokens(text)) > self.limit:
                raise ValueError(
                    f"{count} tokens are more than the {self.limit} that {self.title} reads"
                )
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            pooled = self.network.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            return unit_vectors(self.network.text_projection(pooled))

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text, with those that mark its ends.

        Raises:
            ModelNotFoundError: There is no folder for the tokenizer.
            IntegrityError: The folder has no tokenizer, or that of another network.
        """
        return len(self.tokenizer(text)["input_ids"])

    @property
    def tokenizer(self) -> Any:
        """The folder's tokenizer, loaded at first use.

        Raises:
            ModelNotFoundError: There is no folder for the tokenizer.
            IntegrityError: The folder has no tokenizer, or that of another network.
        """
        if self._tokenizer is None:
            tokenizer = load_tokenizer(self.weights, self._tokenizer_folder)
            known = self.network.text_model.get_input_embeddings().num_embeddings
            if len(tokenizer) > known:
                raise IntegrityError(
                    f"{self.weights.source}: its tokenizer has {len(tokenizer)} tokens, and the "
                    f"network knows {known}"
                )
            self._tokenizer = tokenizer
        return self._tokenizer


def unit_vectors(vectors: Tensor) -> Array:
    """Scale rows to length 1: float64 on the CPU, [B, P]."""
    wide = vectors.double()
    return np.asarray((wide / wide.norm(dim=-1, keepdim=True)).cpu().numpy())
