"""Loss of the LoRA-MoE routers.

Implements the auxiliary loss of LLMBind (arXiv 2402.14891), Eq. 10-12, which is that of Switch
Transformer (arXiv 2101.03961), Eq. 4-6.

Notation: ``T`` tokens that are not padding, ``N`` experts, ``p`` router probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor


def load_balancing_loss(
    router_probs: Tensor, *, padding_mask: Tensor | None = None, coefficient: float
) -> Tensor:
    """Switch loss of one router, ``coefficient · N · Σ_i f_i P_i``.

    ``f_i`` is the fraction of tokens whose most probable expert is ``i`` (no gradient), ``P_i``
    the mean probability of expert ``i``. Balanced routing gives ``coefficient``; sending every
    token to one expert with certainty gives ``coefficient · N``.

    Args:
        router_probs: Full softmax of the router before top-k, float in [0, 1], [..., N].
        padding_mask: True where a token is padding and does not count, bool, with the leading
            shape of ``router_probs``. None if every token counts.
        coefficient: α_aux of the paper, its default being 0.01.

    Returns:
        Scalar, differentiable with respect to ``router_probs``; zero if every token is padding.

    Raises:
        ValueError: If ``padding_mask`` is not bool or its shape does not fit.
    """
    num_experts = router_probs.shape[-1]
    probs = router_probs.reshape(-1, num_experts)  # [T, N]
    counted = torch.ones(probs.shape[0], dtype=probs.dtype, device=probs.device)
    if padding_mask is not None:
        if padding_mask.dtype != torch.bool:
            raise ValueError(
                f"padding_mask must be bool (True where padding), got {padding_mask.dtype}"
            )
        if padding_mask.shape != router_probs.shape[:-1]:
            raise ValueError(
                f"padding_mask must have shape {tuple(router_probs.shape[:-1])} like the tokens of "
                f"router_probs, got {tuple(padding_mask.shape)}"
            )
        is_padding = padding_mask.reshape(-1).to(probs.device)
        counted = counted.masked_fill(is_padding, 0.0)
        probs = probs.masked_fill(is_padding.unsqueeze(-1), 0.0)
    num_tokens = counted.sum().clamp(min=1.0)
    chosen = probs.argmax(dim=-1)  # [T]
    choice_fraction = counted.new_zeros(num_experts).index_add_(0, chosen, counted) / num_tokens
    mean_probability = probs.sum(dim=0) / num_tokens
    # LLMBind Eq. (10): α · N · Σ f_i P_i, with f_i of Eq. (11) and P_i of Eq. (12)
    return coefficient * num_experts * (choice_fraction * mean_probability).sum()
