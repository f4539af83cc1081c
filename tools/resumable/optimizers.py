"""Muon for matrices and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from resumable.muon import Muon

TUNED = 0.3
"""Learning rate of what knows something already, over that of what is new."""


class Optimizers:
    """Two optimizers that step as one.

    Matrices, and convolutions read as matrices, learn by Muon, whose updates have the size of
    AdamW's, so that one learning rate serves both.

    Args:
        parameters: What learns.
        others: Matrices that AdamW is to take all the same, such as embeddings.
        tuned: Those of the parameters that know something already: AdamW takes them, at 0.3 of the
            learning rate.
        weight_decay: Of all.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        others: Iterable[nn.Parameter] = (),
        tuned: Iterable[nn.Parameter] = (),
        weight_decay: float = 0.01,
    ) -> None:
        apart = {id(parameter) for parameter in others}
        knowing = list(tuned)
        slow = {id(parameter) for parameter in knowing}
        learning = [p for p in parameters if p.requires_grad and id(p) not in slow]
        self._matrices = [p for p in learning if p.ndim in (2, 4) and id(p) not in apart]
        taken = {id(matrix) for matrix in self._matrices}
        rest = [p for p in learning if id(p) not in taken]
        # Views: what Muon writes into them is written into the networks.
        self._flat = [nn.Parameter(matrix.data.flatten(1)) for matrix in self._matrices]
        self._muon = Muon(self._flat, weight_decay=weight_decay)
        groups: list[dict[str, Any]] = [{"params": rest, "share": 1.0}]
        if knowing:
            groups.append({"params": knowing, "share": TUNED})
        self._adamw = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=weight_decay)

    def step(self, lr: float) -> None:
        """Move the parameters by their gradients, which are then forgotten."""
        self._muon.param_groups[0]["lr"] = lr
        for group in self._adamw.param_groups:
            group["lr"] = group["share"] * lr
        for flat, matrix in zip(self._flat, self._matrices, strict=True):
            flat.grad = None if matrix.grad is None else matrix.grad.flatten(1)
            matrix.grad = None
        self._muon.step()
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return both states."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over both states."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])
