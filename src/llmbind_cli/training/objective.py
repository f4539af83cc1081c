"""The training objective of the language part: L = L_reg + λ_aux L_aux (LLMBind Eq. 7-12).

Notation: ``B`` dialogues, ``T`` ids, ``M`` ids that carry loss, ``V`` vocabulary, ``L`` routers,
``N`` experts, ``K`` kinds of reply (``REPLY_KINDS``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.data.batches import Batch
from llmbind_cli.data.encode import REPLY_KINDS
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.lora_moe_adapter import without_adapter
from llmbind_cli.nn.losses import load_balancing_loss
from llmbind_cli.nn.router import collect_router_probs

TARGET_STEP = 64
"""The output layer sees multiples of this many rows: CPU kernels are kept for each new shape."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of one batch. All but ``total`` are detached.

    Attributes:
        total: What is minimised, scalar with gradient.
        text: L_reg, the weighted mean cross-entropy of the assistant's ids, in nats.
        balance: L_aux, the mean over routers; ``aux_coefficient`` when perfectly balanced.
        kind_sums: Sum of the cross-entropy over the ids of each kind of reply, unweighted, in
            nats, ``[K]``.
        kind_counts: Number of those ids, ``[K]``.
        router_load: Share of the ids whose first choice each expert is, padding left out,
            ``[L, N]``, in the order of the routers in the model.
    """

    total: Tensor
    text: Tensor
    balance: Tensor
    kind_sums: Tensor
    kind_counts: Tensor
    router_load: Tensor


class LanguageObjective(nn.Module):
    """A binding model's language part with its losses, as one module that an engine can wrap.

    The output layer is applied to the positions that carry loss only: the full logits
    ``[B, T, V]`` would be the largest tensor of the step.

    Args:
        model: The model that trains.
        aux_coefficient: ``α_aux`` of Eq. (10); 0 leaves the load-balancing loss out.
        talk_target: ``reply`` trains every reply towards its ids. ``base`` trains the replies of
            dialogues without a call towards the base LLM's own token distribution instead, so
            that plain answers stay what they were (Li and Hoiem, arXiv 1606.09282).
    """

    def __init__(
        self, model: BoundModel, *, aux_coefficient: float, talk_target: str = "reply"
    ) -> None:
        super().__init__()
        self.language_model = model.language_model
        self.aux_coefficient = aux_coefficient
        self.talk_target = talk_target
        self._model = model

    def forward(self, batch: Batch) -> Losses:
        """Run the model on ``B`` padded dialogues and return their losses."""
        with collect_router_probs(self.language_model) as record:
            hidden = self._hidden_states(batch)  # [B, T, D]
        router_probs = record.probs()
        weights = batch.loss_weights[:, 1:].flatten()
        targets_at = weights.nonzero().squeeze(1)  # [M]
        num_targets = len(targets_at)
        positions = _padded(targets_at)
        logits = self._model.output_head(hidden[:, :-1].flatten(0, 1)[positions]).float()
        targets = batch.input_ids[:, 1:].flatten()[positions]
        per_token = functional.cross_entropy(logits, targets, reduction="none")[:num_targets]
        kinds = batch.reply_kinds[:, 1:].flatten()[targets_at]
        kind_sums = torch.zeros(len(REPLY_KINDS), device=per_token.device)
        kind_sums.index_add_(0, kinds, per_token.detach())
        if self.talk_target == "base":
            per_token = self._towards_base(batch, per_token, logits, positions)
        weight = weights[targets_at]
        text = (per_token * weight).sum() / weight.sum()
        balance = self._balance(router_probs, batch.attention_mask, text)
        return Losses(
            total=text + balance,
            text=text.detach(),
            balance=balance.detach(),
            kind_sums=kind_sums,
            kind_counts=torch.bincount(kinds, minlength=len(REPLY_KINDS)),
            router_load=_first_choices(router_probs, batch.attention_mask),
        )

    def _hidden_states(self, batch: Batch) -> Tensor:
        hidden: Tensor = self._model.decoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return hidden

    def _towards_base(
        self, batch: Batch, per_token: Tensor, logits: Tensor, positions: Tensor
    ) -> Tensor:
        """Put the cross-entropy towards the base in the place of that of plain dialogues' ids."""
        num_targets = len(per_token)
        rows = torch.div(positions, batch.input_ids.shape[1] - 1, rounding_mode="floor")
        chosen = batch.is_plain[rows[:num_targets]].nonzero().squeeze(1)
        if len(chosen) == 0:
            return per_token
        plain = batch.is_plain.nonzero().squeeze(1)
        with torch.no_grad(), without_adapter(self.language_model):
            hidden = self._hidden_states(batch.select(plain))  # [B', T, D]
            place = torch.cumsum(batch.is_plain, 0) - 1
            width = batch.input_ids.shape[1] - 1
            at = place[rows[chosen]] * width + positions[chosen] % width
            base = self._model.output_head(hidden[:, :-1].flatten(0, 1)[_padded(at)]).float()
            base = base[: len(chosen)]
            base[:, self._model.output_head.token_ids] = float("-inf")  # type: ignore[index]
            probabilities = base.softmax(-1)
        towards_base = -(probabilities * logits[chosen].log_softmax(-1)).sum(-1)
        return per_token.index_copy(0, chosen, towards_base)

    def _balance(self, router_probs: list[Tensor], mask: Tensor, like: Tensor) -> Tensor:
        if not router_probs or self.aux_coefficient == 0:
            return like.new_zeros(())
        terms = [
            load_balancing_loss(probs, padding_mask=mask == 0, coefficient=self.aux_coefficient)
            for probs in router_probs
        ]
        return torch.stack(terms).mean()


def _padded(positions: Tensor) -> Tensor:
    """Repeat the first position up to a multiple of ``TARGET_STEP``."""
    missing = -len(positions) % TARGET_STEP
    return torch.cat([positions, positions[:1].expand(missing)])


@torch.no_grad()
def _first_choices(router_probs: list[Tensor], mask: Tensor) -> Tensor:
    """Return ``[L, N]``: how often each expert has the highest probability."""
    if not router_probs:
        return torch.zeros(0, 0)
    real = mask.flatten().bool()
    choices = torch.stack([p.flatten(0, -2)[real].argmax(-1) for p in router_probs])  # [L, B·T]
    num_experts = router_probs[0].shape[-1]
    return functional.one_hot(choices, num_experts).float().mean(1)
