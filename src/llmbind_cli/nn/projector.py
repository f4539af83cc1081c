"""The projector: features of a vision tower → positions of the language model.

Two linear layers with a GELU between them, as LLaVA-1.5 has it (arXiv 2310.03744, section 3.2) and
LLMBind takes over (arXiv 2402.14891, section 3.1).

Notation: ``K`` cells of a picture, ``W`` width of the tower's features, ``D`` width of the LLM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_GELU_OF_LINEAR = 0.35
"""Root mean square of GELU(x W) for unit-variance x and PyTorch's initial W."""


class Projector(nn.Module):
    """A two-layer perceptron, or one linear layer as the first LLaVA had it (arXiv 2304.08485).

    Args:
        width: ``W``, ≥ 1.
        hidden_size: ``D``, ≥ 1.
        num_layers: 1 or 2.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, *, width: int, hidden_size: int, num_layers: int = 2) -> None:
        super().__init__()
        if width < 1 or hidden_size < 1:
            raise ValueError(f"width and hidden_size must be ≥ 1, got {width} and {hidden_size}")
        if num_layers not in (1, 2):
            raise ValueError(f"num_layers must be 1 or 2, got {num_layers}")
        self.linear_1 = nn.Linear(width, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size) if num_layers == 2 else None

    @torch.no_grad()
    def match_scale(self, rms: float) -> None:
        """Let the initial outputs be about as large as the LLM's own word embeddings.

        Args:
            rms: Root mean square of the entries of the LLM's embedding matrix.
        """
        last = self.linear_2 or self.linear_1
        spread = 1.0 if self.linear_2 is None else _GELU_OF_LINEAR
        last.weight.normal_(std=rms / (spread * last.in_features**0.5))
        last.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Project each cell: [..., K, W] → [..., K, D]."""
        hidden: Tensor = self.linear_1(features)
        if self.linear_2 is None:
            return hidden
        projected: Tensor = self.linear_2(functional.gelu(hidden))
        return projected
