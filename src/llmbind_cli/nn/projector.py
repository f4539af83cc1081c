"""The projector: features of a vision tower → positions of the language model.

Two linear layers with a GELU between them, as LLaVA-1.5 has it (arXiv 2310.03744, section 3.2) and
LLMBind takes over (arXiv 2402.14891, section 3.1).

Neighbouring positions may be averaged, so that a picture takes fewer of them. And a softmax over
visual words may stand between the layers, as in Ovis (arXiv 2405.20797, section 3): a cell is then
a mixture of rows of a table, which are embeddings like those of words, and nothing beside them.

Notation: ``K`` cells of a picture, ``W`` width of the tower's features, ``D`` width of the LLM,
``p`` side of the squares of cells that become one position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
        pool: ``p``, ≥ 1.
        words: Sizes of the vocabularies of visual words; a cell is one word of each. None for a
            GELU between the layers.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        width: int,
        hidden_size: int,
        num_layers: int = 2,
        pool: int = 1,
        words: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if width < 1 or hidden_size < 1:
            raise ValueError(f"width and hidden_size must be ≥ 1, got {width} and {hidden_size}")
        if num_layers not in (1, 2):
            raise ValueError(f"num_layers must be 1 or 2, got {num_layers}")
        if pool < 1:
            raise ValueError(f"pool must be ≥ 1, got {pool}")
        if words and (num_layers != 2 or min(words) < 2):
            raise ValueError(
                f"visual words need two layers and vocabularies of ≥ 2, got {num_layers} and "
                f"{list(words)}"
            )
        self.pool, self.words = pool, tuple(words)
        inner = sum(words) or hidden_size
        self.linear_1 = nn.Linear(width, inner if num_layers == 2 else hidden_size)
        self.linear_2 = None
        if num_layers == 2:
            self.linear_2 = nn.Linear(inner, hidden_size, bias=not words)

    @torch.no_grad()
    def match_scale(self, rms: float) -> None:
        """Let the initial outputs be about as large as the LLM's own word embeddings.

        Args:
            rms: Root mean square of the entries of the LLM's embedding matrix.
        """
        if self.words and self.linear_2 is not None:
            self.linear_2.weight.normal_(std=rms)
            return
        last = self.linear_2 or self.linear_1
        spread = 1.0 if self.linear_2 is None else _GELU_OF_LINEAR
        last.weight.normal_(std=rms / (spread * last.in_features**0.5))
        last.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """[B, K, W], the cells of a square grid row after row → [B, K / p², D].

        Raises:
            ValueError: ``p`` > 1, and the grid is no square or ``p`` does not divide its side.
        """
        return self.pooled(self.cells(features))

    def pooled(self, cells: Tensor) -> Tensor:
        """Average projected cells over squares: [B, K, D] → [B, K / p², D]; errors as above."""
        if self.pool == 1:
            return cells
        side = math.isqrt(cells.shape[1])
        if side * side != cells.shape[1] or side % self.pool:
            raise ValueError(
                f"{cells.shape[1]} cells are no square grid that can be cut into squares of "
                f"{self.pool} × {self.pool}"
            )
        rows = side // self.pool
        grid = cells.reshape(len(cells), rows, self.pool, rows, self.pool, cells.shape[2])
        return grid.mean((2, 4)).flatten(1, 2)

    def cells(self, features: Tensor) -> Tensor:
        """Project each cell: [..., K, W] → [..., K, D]."""
        hidden: Tensor = self.linear_1(features)
        if self.linear_2 is None:
            return hidden
        if self.words:
            shares = [
                scores.softmax(-1) for scores in torch.split(hidden, list(self.words), dim=-1)
            ]
            mixed: Tensor = self.linear_2(torch.cat(shares, dim=-1))
            return mixed
        projected: Tensor = self.linear_2(functional.gelu(hidden))
        return projected
