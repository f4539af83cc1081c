"""A small reader of phrases, which stands in for the language model while the mask decoder learns.

It makes of a phrase what the language model is to make of its ``seg`` state later: the decoder's
prompt. It is a thousandth of the language model's cost, so the decoder meets far more pictures.

Notation: ``N`` phrases, ``T`` ids of the longest, ``D`` width of the language model, ``P`` width of
the prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, LAYERS, HEADS, LONGEST = 192, 3, 4, 32


class PhraseReader(nn.Module):
    """Embeddings of a phrase's ids → the prompt of a mask decoder.

    Args:
        hidden_size: ``D``.
        prompt_width: ``P``.
    """

    def __init__(self, *, hidden_size: int, prompt_width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(hidden_size, WIDTH)
        self.places = nn.Parameter(torch.randn(LONGEST, WIDTH) * 0.02)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            ),
            LAYERS,
            enable_nested_tensor=False,
        )  # fmt: skip
        self.norm = nn.LayerNorm(WIDTH)
        self.leave = nn.Linear(WIDTH, prompt_width)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Read phrases.

        Args:
            embeddings: Float, [N, T, D], T ≤ ``LONGEST``.
            mask: True where there is an id, [N, T].

        Returns:
            Prompts, [N, P].
        """
        states = self.enter(embeddings) + self.places[: embeddings.shape[1]]
        read = self.layers(states, src_key_padding_mask=~mask)
        kept = mask[..., None].to(read)
        mean = (read * kept).sum(1) / kept.sum(1)
        prompts: Tensor = self.leave(self.norm(mean))
        return prompts
