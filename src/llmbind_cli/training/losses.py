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
    weights = batch.loss_weights[:, 1:]
    carries_loss = weights > 0
    logits = model.output_head(hidden[:, :-1][carries_loss]).float()  # [M, V]
    targets = batch.input_ids[:, 1:][carries_loss]
    per_token = functional.cross_entropy(logits, targets, reduction="none")
    weight = weights[carries_loss]
    text = (per_token * weight).sum() / weight.sum()
    balance = _balance(record.probs(), batch.attention_mask, aux_coefficient, text)
    return Losses(
        total=text + balance, text=text.detach(), balance=balance.detach(),
        num_targets=int(carries_loss.sum()),
    )


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
