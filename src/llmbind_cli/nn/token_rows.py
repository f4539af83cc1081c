"""Trainable rows for new tokens, beside frozen embedding and output matrices.

Training both whole matrices would cost 262 M parameters at 7 B; only the rows of the task tokens
of LLMBind (arXiv 2402.14891, Section 3.1) are new, so only they train. The base matrices keep
their size: a row may replace a token of the base vocabulary or extend the vocabulary.

Notation: ``K`` new rows, ``V`` base vocabulary, ``D`` hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def _check_rows(token_ids: Sequence[int], rows: Tensor, width: int) -> None:
    """Refuse ids that repeat or are negative, and rows that do not fit them."""
    if not token_ids:
        raise ValueError("token_ids must name at least one token, got none")
    if len(set(token_ids)) != len(token_ids):
        raise ValueError(f"token_ids must differ from each other, got {list(token_ids)}")
    if min(token_ids) < 0:
        raise ValueError(f"token_ids must be ≥ 0, got {min(token_ids)}")
    if tuple(rows.shape) != (len(token_ids), width):
        raise ValueError(
            f"rows must have shape ({len(token_ids)}, {width}), one row per token id, "
            f"got {tuple(rows.shape)}"
        )


class TokenRowEmbedding(nn.Module):
    """Embedding whose listed tokens read a trainable row, all others the base matrix.

    Args:
        base_layer: The embedding of the base model, V rows; freezing it is the caller's business.
        token_ids: Ids that read from ``rows``, inside or beyond the base vocabulary.
        rows: Trainable rows in the order of ``token_ids``, usually float32, [K, D]. Pass the same
            parameter to :class:`TokenRowHead` where the base model ties its matrices.

    Raises:
        ValueError: If ids repeat or are negative, or ``rows`` does not fit.
    """

    base_layer: nn.Embedding
    row_of_token: Tensor

    def __init__(
        self, base_layer: nn.Embedding, *, token_ids: list[int], rows: nn.Parameter
    ) -> None:
        super().__init__()
        _check_rows(token_ids, rows, base_layer.embedding_dim)
        self.base_layer = base_layer
        self.token_ids = list(token_ids)
        self.rows = rows
        table_size = max(base_layer.num_embeddings, max(token_ids) + 1)
        row_of_token = torch.full((table_size,), -1)
        row_of_token[token_ids] = torch.arange(len(token_ids))
        self.register_buffer(
            "row_of_token", row_of_token.to(base_layer.weight.device), persistent=False
        )

    @property
    def weight(self) -> Tensor:
        """The base matrix, [V, D], for code that asks an embedding for its dtype or device."""
        return self.base_layer.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed ``input_ids`` (int64, [...]) as [..., D], in the dtype of the base matrix.

        Raises:
            IndexError: If an id is neither in the base vocabulary nor listed (on the CPU).
        """
        row = self.row_of_token[input_ids]  # [...], -1 where the base matrix answers
        is_listed = row >= 0
        embedded: Tensor = self.base_layer(input_ids.masked_fill(is_listed, 0))  # [..., D]
        listed = functional.embedding(row.clamp(min=0), self.rows.to(embedded.dtype))
        return torch.where(is_listed.unsqueeze(-1), listed, embedded)


class TokenRowHead(nn.Module):
    """Output layer whose listed tokens score against a trainable row, all others as before.

    Args:
        base_layer: The output layer of the base model, V rows; freezing it is the caller's
            business.
        token_ids: Ids that score against ``rows``, inside or beyond the base vocabulary. Beyond
            it, the logits grow to the largest id + 1, and ids that nobody owns score -inf.
        rows: Trainable rows in the order of ``token_ids``, usually float32, [K, D].

    Raises:
        ValueError: If ids repeat or are negative, ``rows`` does not fit, or the base layer has a
            bias, which a replaced token would lose.
    """

    base_layer: nn.Linear
    rows: nn.Parameter
    out_features: int
    token_index: Tensor

    def __init__(self, base_layer: nn.Linear, *, token_ids: list[int], rows: nn.Parameter) -> None:
        super().__init__()
        _check_rows(token_ids, rows, base_layer.in_features)
        if base_layer.bias is not None:
            raise ValueError(
                "base_layer must have no bias: new rows have no bias to take its place"
            )
        self.base_layer = base_layer
        self.token_ids = list(token_ids)
        self.rows = rows
        self.out_features = max(base_layer.out_features, max(token_ids) + 1)
        self.register_buffer(
            "token_index",
            torch.tensor(token_ids, device=base_layer.weight.device),
            persistent=False,
        )

    @property
    def weight(self) -> Tensor:
        """The base matrix, [V, D], for code that asks an output layer for its dtype or device."""
        return self.base_layer.weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Logits of every token.

        Args:
            hidden_states: Last hidden states, float, [..., D].

        Returns:
            Logits in the dtype of the base layer's output, [..., max(V, largest id + 1)].
        """
        logits: Tensor = self.base_layer(hidden_states)  # [..., V]
        num_unowned = self.out_features - logits.shape[-1]
        if num_unowned > 0:
            logits = functional.pad(logits, (0, num_unowned), value=float("-inf"))
        listed = functional.linear(hidden_states, self.rows.to(hidden_states.dtype))  # [..., K]
        return logits.index_copy(-1, self.token_index, listed)
