"""Losses of the LoRA-MoE routers and of predicted masks.

Implements the auxiliary loss of LLMBind (arXiv 2402.14891), Eq. 10-12, which is that of Switch
Transformer (arXiv 2101.03961), Eq. 4-6; and the two losses of masks of LISA (arXiv 2308.00692,
Eq. 4; dvlab-research/LISA 3cb2d43, ``model/LISA.py``), which LLMBind's segmentation trains with.

Notation: ``T`` tokens that are not padding, ``N`` experts, ``p`` router probabilities; ``M`` masks
of ``H × W`` pixels, ``t`` their targets.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_DICE_SCALE = 1000.0
_DICE_EPSILON = 1e-6


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


def mask_bce_loss(logits: Tensor, target: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of masks: the mean over a mask's pixels, then over the masks.

    Args:
        logits: Scores before the sigmoid, float, [..., H, W]; the leading axes number the masks.
        target: 0 or 1, any dtype, of the same shape.
        counted: True for the pixels that count, bool, of the same shape; ``None`` counts all. A
            mask of which no pixel counts adds zero.

    Returns:
        Scalar, differentiable with respect to ``logits``; zero if there is no mask.

    Raises:
        ValueError: If the shapes differ or have fewer than two axes.
    """
    scores, truth = _flat_masks(logits, target)
    losses = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    if counted is None:
        # LISA: the pixel mean, summed over masks, divided by their number
        return losses.mean(dim=1).sum() / max(1, scores.shape[0])
    weights = _flat_masks(logits, counted)[1]
    means = (losses * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return means.sum() / max(1, scores.shape[0])


def mask_dice_loss(logits: Tensor, target: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """Dice loss of masks, averaged over them.

    With p = σ(logit): 1 − (2 Σ pt / 1000 + 1e-6) / (Σ p / 1000 + Σ t / 1000 + 1e-6). The scale
    keeps the sums of large masks small; with it an empty target costs nearly 1 unless p is
    smaller than about 1e-3 of one pixel in all.

    Args:
        logits: Scores before the sigmoid, float, [..., H, W]; the leading axes number the masks.
        target: 0 or 1, any dtype, of the same shape.
        counted: True for the pixels that count, bool, of the same shape; ``None`` counts all.

    Returns:
        Scalar, differentiable with respect to ``logits``; zero if there is no mask.

    Raises:
        ValueError: If the shapes differ or have fewer than two axes.
    """
    scores, truth = _flat_masks(logits, target)
    probabilities = scores.sigmoid()
    if counted is not None:
        weights = _flat_masks(logits, counted)[1]
        probabilities, truth = probabilities * weights, truth * weights
    overlap = 2 * (probabilities / _DICE_SCALE * truth).sum(dim=1)
    sizes = (probabilities / _DICE_SCALE).sum(dim=1) + (truth / _DICE_SCALE).sum(dim=1)
    losses = 1 - (overlap + _DICE_EPSILON) / (sizes + _DICE_EPSILON)  # LISA
    return losses.sum() / max(1, scores.shape[0])


def _flat_masks(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """[..., H, W] twice → [M, H · W] twice, in float32 at least: sums of pixels need its digits."""
    if logits.shape != target.shape or logits.dim() < 2:
        raise ValueError(
            f"logits and target must have one shape [..., H, W], got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    pixels = logits.shape[-2] * logits.shape[-1]
    scores = logits.reshape(-1, pixels)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores, target.reshape(-1, pixels).to(scores.dtype)
