"""Calls whose words do not run in circles.

The likeliest next id leads a small model into loops, "the sink, the oven, the sink, the oven", of
which no call comes. Inside a pair an id is ruled out where it would end a run of ids that the pair
has held before (Paulus, Xiong and Socher, arXiv 1705.04304, section 2.5). What is said outside of
calls may repeat, as lists and songs do.

Notation: ``B`` replies, ``T`` ids of the longest, ``V`` ids of the vocabulary, ``N`` ids of a run.
"""

from __future__ import annotations

import torch
from torch import Tensor

RUN = 6
"""``N``. Words that are meant to repeat are shorter ("knock, knock"), or another pair's."""

_NONE = -1


class PayloadLoops:
    """What the open pairs of some replies hold, and which ids would repeat it.

    Args:
        rows: Number of replies, ``B``.
        device: Where logits live.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._held = torch.empty(rows, 0, dtype=torch.long, device=device)  # [B, T]

    def follow(self, chosen: Tensor, before: Tensor, after: Tensor) -> None:
        """Take note of the ids that came.

        Args:
            chosen: One a reply, int64 [B].
            before: States of the grammar before them, [B]; 0 is outside of a pair.
            after: Likewise after them.
        """
        held = torch.where((before > 0) & (after > 0), chosen, _NONE)
        kept = torch.where((after > 0)[:, None], self._held, _NONE)
        self._held = torch.cat([kept, held[:, None]], dim=1)

    def keep(self, rows: Tensor) -> None:
        """Drop all replies but some; int64 [rows]."""
        self._held = self._held[rows]

    def constrain(self, logits: Tensor) -> Tensor:
        """Rule out what would repeat a run; [B, V], −inf where it is ruled out."""
        if self._held.shape[1] < RUN:
            return logits
        runs = self._held.unfold(1, RUN, 1)  # [B, T - N + 1, N]
        last = self._held[:, None, 1 - RUN :]  # [B, 1, N - 1]
        again = ((runs[..., :-1] == last) & (last != _NONE)).all(dim=-1)
        replies, places = again.nonzero(as_tuple=True)
        if not len(replies):
            return logits  # as at nearly every step: no copy of all logits
        repeated = runs[replies, places, -1]
        minus = logits.new_tensor(float("-inf"))
        return logits.index_put((replies, repeated), minus)
