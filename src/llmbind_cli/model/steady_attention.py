"""Attention in which what a query gets does not depend on how many are asked at a time.

PyTorch's fused attention gives fewer than four queries to another matrix product on a CPU, which
adds up in another order, and transformers lays out a single one differently again. Here there are
always four: one row decoded alone gets the same states, to the last bit, as within a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmbind_cli.nn.router import FEWEST_ROWS

NAME = "llmbind_steady_sdpa"


def make_steady(model: Any) -> None:
    """Let a language model on a CPU attend this way, if it would use PyTorch's fused attention."""
    if model.config._attn_implementation != "sdpa":
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' ``sdpa`` does, queries [B, H, T, C] filled up to four."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    count = query.shape[2]
    missing = FEWEST_ROWS - count
    if missing > 0 and attention_mask is not None:
        query = torch.cat([query, query[:, :, -1:].expand(-1, -1, missing, -1)], dim=2)
        last = attention_mask[:, :, -1:].expand(-1, -1, missing, -1)
        attention_mask = torch.cat([attention_mask, last], dim=2)
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, **settings
    )  # [B, T, H, C]
    return output[:, :count], None
