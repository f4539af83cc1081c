"""The training objective of the language part: L = L_reg + λ_aux L_aux (LLMBind Eq. 7-12)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from llmbind_cli.data.batches import Batch
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.nn.losses import load_balancing_loss
from llmbind_cli.nn.router import collect_router_probs

TARGET_STEP = 64
"""The output layer sees multiples of this many rows: CPU kernels are kept for each new shape."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of one batch.

    Attributes:
        total: What is minimised, scalar with gradient.
        text: L_reg, the weighted mean cross-entropy of the assistant's ids, in nats.
        balance: L_aux, the mean over routers; ``aux_coefficient`` when perfectly balanced.
        num_targets: Ids that carry loss.
    """

    total: Tensor
    text: Tensor
    balance: Tensor
    num_targets: int


def compute_losses(model: BoundModel, batch: Batch, *, aux_coefficient: float) -> Losses:
    """Run the model on a batch and return its losses.

    The output layer is applied to the positions that carry loss only: the full logits
    ``[B, T, V]`` would be the largest tensor of the step.

    Args:
        model: The model in training mode.
        batch: ``B`` padded dialogues.
        aux_coefficient: ``α_aux`` of Eq. (10); 0 leaves the load-balancing loss out.
    """
    with collect_router_probs(model.language_model) as record:
        hidden = model.decoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state  # [B, T, D]
    weights = batch.loss_weights[:, 1:].flatten()
    positions = _padded(weights.nonzero().squeeze(1))  # [M]
    logits = model.output_head(hidden[:, :-1].flatten(0, 1)[positions]).float()  # [M, V]
    targets = batch.input_ids[:, 1:].flatten()[positions]
    per_token = functional.cross_entropy(logits, targets, reduction="none")
    num_targets = int((weights > 0).sum())
    weight = weights[positions[:num_targets]]
    text = (per_token[:num_targets] * weight).sum() / weight.sum()
    balance = _balance(record.probs(), batch.attention_mask, aux_coefficient, text)
    return Losses(
        total=text + balance,
        text=text.detach(),
        balance=balance.detach(),
        num_targets=num_targets,
    )


def _padded(positions: Tensor) -> Tensor:
    """Repeat the first position up to a multiple of ``TARGET_STEP``."""
    missing = -len(positions) % TARGET_STEP
    return torch.cat([positions, positions[:1].expand(missing)])


def _balance(
    router_probs: list[Tensor], attention_mask: Tensor, coefficient: float, like: Tensor
) -> Tensor:
    if not router_probs or coefficient == 0:
        return like.new_zeros(())
    padding = attention_mask == 0
    terms = [
        load_balancing_loss(probs, padding_mask=padding, coefficient=coefficient)
        for probs in router_probs
    ]
    return torch.stack(terms).mean()
