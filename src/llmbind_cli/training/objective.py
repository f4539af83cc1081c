"""The training objective: L = L_reg + λ_mask L_mask + λ_aux L_aux (LLMBind Eq. 7-12).

Notation: ``B`` dialogues, ``T`` ids, ``M`` ids that carry loss, ``V`` vocabulary, ``L`` routers,
``N`` experts, ``K`` kinds of reply (``REPLY_KINDS``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llmbind_cli.data.batches import Batch
from llmbind_cli.data.encode import REPLY_KINDS
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import IMAGE_ID
from llmbind_cli.model.lora_moe_adapter import without_adapter
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.losses import load_balancing_loss
from llmbind_cli.nn.router import collect_router_probs
from llmbind_cli.training.sight_losses import MaskWeights, SightLosses, sight_losses

ROWS = 128
"""Rows that go through the output layer at a time. Logits ``[ROWS, V]`` are made, used and made
again in the backward pass, so that a batch's whole logits never exist, and CPU kernels, which are
compiled for each new shape, meet one shape only."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of one batch. All but ``total`` are detached.

    Attributes:
        total: What is minimised, scalar with gradient.
        text: L_reg, the weighted mean cross-entropy of the assistant's ids, in nats.
        mask: L_mask, the weighted sum of cross-entropy and Dice loss, meant over masks; ``None``
            where the batch has no mask.
        box: The loss of the boxes around the masks; ``None`` likewise.
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
    mask: Tensor | None = None
    box: Tensor | None = None


class LanguageObjective(nn.Module):
    """A binding model with its losses, as one module that an engine can wrap.

    The output layer is applied to the positions that carry loss only, a few rows at a time: the
    full logits ``[B, T, V]`` would be the largest tensor of the step.

    Args:
        model: The model that trains.
        aux_coefficient: ``α_aux`` of Eq. (10); 0 leaves the load-balancing loss out.
        talk_target: ``reply`` trains every reply towards its ids. ``base`` trains the replies of
            dialogues without a call towards the base LLM's own token distribution instead, so
            that plain answers stay what they were (Li and Hoiem, arXiv 1606.09282).
        masks: Weights of the losses of masks and boxes; ``None`` for a model that reads words only.

    Attributes:
        most: From numbers of targets to those that decide how often the model's layers are called.
            Where weights are sharded, every process must call them equally often, whatever its
            batch holds: the engine then puts the largest over all processes here.
    """

    def __init__(
        self,
        model: BoundModel,
        *,
        aux_coefficient: float,
        talk_target: str = "reply",
        masks: MaskWeights | None = None,
    ) -> None:
        super().__init__()
        self.language_model = model.language_model
        self.sight = model.sight
        self.masks = masks
        self.aux_coefficient = aux_coefficient
        self.talk_target = talk_target
        self.most: Callable[[list[int]], list[int]] = list
        self._model = model

    def forward(self, batch: Batch) -> Losses:
        """Run the model on ``B`` padded dialogues and return their losses."""
        with collect_router_probs(self.language_model) as record:
            hidden = self.hidden_states(batch)  # [B, T, D]
        router_probs = record.probs()
        width = batch.input_ids.shape[1] - 1
        weights = batch.loss_weights[:, 1:].flatten()
        targets_at = weights.nonzero().squeeze(1)  # [M]
        targets = batch.input_ids[:, 1:].flatten()[targets_at]  # never a picture's position
        states = hidden[:, :-1].flatten(0, 1)  # [B·(T-1), D]
        learns_base = self._learns_base(batch, targets_at // width)
        by_ids, by_base = (chosen.nonzero().squeeze(1) for chosen in (~learns_base, learns_base))
        most_ids, most_base = self.most([len(by_ids), len(by_base)])
        per_token = states.new_zeros(len(targets), dtype=torch.float32)
        of_ids = self._towards_ids(states[targets_at[by_ids]], targets[by_ids], most=most_ids)
        per_token = per_token.index_copy(0, by_ids, of_ids)
        by_kind = per_token.detach()
        if most_base:
            base_states = self._base_states(batch, targets_at[by_base])
            of_base, of_ids = self._towards_base(
                states[targets_at[by_base]], base_states, targets[by_base], most=most_base
            )
            per_token = per_token.index_copy(0, by_base, of_base)
            by_kind = by_kind.index_copy(0, by_base, of_ids)
        kinds = batch.reply_kinds[:, 1:].flatten()[targets_at]
        weight = weights[targets_at]
        text = (per_token * weight).sum() / weight.sum()
        balance = self._balance(router_probs, batch.attention_mask, text)
        total = text + balance
        seen = SightLosses()
        if self.sight is not None and self.masks is not None:
            seen = self.sight_losses(batch, hidden, self.masks)
            total = total + seen.total(self.masks) + _touched(self.sight)
        return Losses(
            total=total,
            text=text.detach(),
            mask=None if seen.mask is None else seen.mask.detach(),
            box=None if seen.box is None else seen.box.detach(),
            balance=balance.detach(),
            kind_sums=by_kind.new_zeros(len(REPLY_KINDS)).index_add_(0, kinds, by_kind),
            kind_counts=torch.bincount(kinds, minlength=len(REPLY_KINDS)),
            router_load=_first_choices(router_probs, batch.attention_mask),
        )

    def sight_losses(self, batch: Batch, hidden: Tensor, weights: MaskWeights) -> SightLosses:
        """Return the losses of what the states [B, T, D] of a model that sees point at."""
        if self.sight is None:
            raise ValueError("a model without sight points at nothing")
        return sight_losses(self.sight, batch, hidden, weights)

    def hidden_states(self, batch: Batch) -> Tensor:
        """Return the last hidden states of a batch, [B, T, D]."""
        hidden: Tensor = self._model.decoder(
            **self._inputs(batch), attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return hidden

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the decoder reads: ids, or their embeddings with those of pictures."""
        if batch.seen is None or self.sight is None:
            return {"input_ids": batch.input_ids}
        table = self.sight.embeddings(batch.seen.features).flatten(0, 1)  # [N·K, D]
        is_image = batch.input_ids == IMAGE_ID
        numbers = -1 - torch.arange(len(table), device=table.device)
        numbered = batch.input_ids.masked_scatter(is_image, numbers)
        return {"inputs_embeds": self._model.embed(numbered, table)}

    def _learns_base(self, batch: Batch, rows: Tensor) -> Tensor:
        """Tell for each target, of dialogue ``rows``, whether it learns the base's distribution."""
        if self.talk_target == "base":
            return batch.is_plain[rows]
        return torch.zeros_like(rows, dtype=torch.bool)

    @torch.no_grad()
    def _base_states(self, batch: Batch, positions: Tensor) -> Tensor:
        """Return the base's hidden states ``[M', D]`` at positions of plain dialogues."""
        width = batch.input_ids.shape[1] - 1
        plain = batch.is_plain.nonzero().squeeze(1)
        if len(plain) == 0:
            plain = plain.new_zeros(1)  # this process only keeps the others company
        hidden = self.base_hidden(batch.select(plain))
        place = torch.cumsum(batch.is_plain, 0) - 1  # dialogue of the batch → among the plain ones
        at = place[positions // width] * width + positions % width
        return hidden[:, :-1].flatten(0, 1)[at]

    def base_hidden(self, batch: Batch) -> Tensor:
        """Return the last hidden states ``[B, T, D]`` of the base for dialogues in words alone."""
        with without_adapter(self.language_model):
            return self.hidden_states(batch)

    def base_probs(self, states: Tensor) -> Tensor:
        """Return the distributions ``[M, V]`` that the base's hidden states ``[M, D]`` mean."""
        logits = self._model.output_head(states).float()
        logits[:, self._model.output_head.token_ids] = float("-inf")  # the base knows no task
        probs: Tensor = logits.softmax(-1)
        return probs

    def _towards_ids(self, states: Tensor, targets: Tensor, *, most: int) -> Tensor:
        """Return the cross-entropy of ``M`` ids, in nats, ``[M]``."""

        def chunk(states: Tensor, targets: Tensor) -> Tensor:
            logits = self._model.output_head(states).float()  # [ROWS, V]
            return functional.cross_entropy(logits, targets, reduction="none")

        return _in_chunks(chunk, states, targets, most=most)[0]

    def _towards_base(
        self, states: Tensor, base_states: Tensor, targets: Tensor, *, most: int
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy towards the base's distribution, and that of the ids."""

        def chunk(states: Tensor, base_states: Tensor, targets: Tensor) -> Tensor:
            log_probs = self._model.output_head(states).float().log_softmax(-1)  # [ROWS, V]
            with torch.no_grad():
                base = self.base_probs(base_states)
            of_ids = log_probs.detach().gather(1, targets[:, None])[:, 0]
            return torch.stack([-(base * log_probs).sum(-1), -of_ids])  # [2, ROWS]

        of_base, of_ids = _in_chunks(chunk, states, base_states, targets, most=most)
        return of_base, of_ids.detach()

    def _balance(self, router_probs: list[Tensor], mask: Tensor, like: Tensor) -> Tensor:
        if not router_probs or self.aux_coefficient == 0:
            return like.new_zeros(())
        terms = [
            load_balancing_loss(probs, padding_mask=mask == 0, coefficient=self.aux_coefficient)
            for probs in router_probs
        ]
        return torch.stack(terms).mean()


def _touched(sight: Sight) -> Tensor:
    """Return zero, with a gradient for every head: all processes then have gradients alike."""
    trained = [p for p in sight.heads().values() if p.requires_grad]
    return torch.stack([parameter.sum() for parameter in trained]).sum() * 0.0


def _in_chunks(chunk: Callable[..., Tensor], *rows: Tensor, most: int) -> Tensor:
    """Apply ``chunk`` to ``ROWS`` rows at a time; return its values ``[…, M]`` side by side.

    The last chunk is filled up with zeros, and so are chunks beyond the ``M`` rows, of which there
    are as many as ``most`` rows would need. What is made within a chunk is not kept for the
    backward pass but made again.
    """
    count = len(rows[0])
    values = []
    for start in range(0, most, ROWS):
        part = [_filled(tensor[start : start + ROWS]) for tensor in rows]
        value = checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False)
        value = value.view(-1, ROWS)
        values.append(value[:, : max(0, count - start)])
    if not values:
        return rows[0].new_zeros(1, 0, dtype=torch.float32)
    return torch.cat(values, 1)


def _filled(rows: Tensor) -> Tensor:
    missing = ROWS - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


@torch.no_grad()
def _first_choices(router_probs: list[Tensor], mask: Tensor) -> Tensor:
    """Return ``[L, N]``: how often each expert has the highest probability."""
    if not router_probs:
        return torch.zeros(0, 0)
    real = mask.flatten().bool()
    choices = torch.stack([p.flatten(0, -2)[real].argmax(-1) for p in router_probs])  # [L, B·T]
    num_experts = router_probs[0].shape[-1]
    return functional.one_hot(choices, num_experts).float().mean(1)
