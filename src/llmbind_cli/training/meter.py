"""What a run reports between two log lines."""

from __future__ import annotations

import time
from dataclasses import dataclass

from llmbind_cli.data.batches import Batch
from llmbind_cli.data.encode import REPLY_KINDS
from llmbind_cli.training.objective import Losses


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of ``log.jsonl``: means since the line before.

    Attributes:
        step: Optimizer steps done.
        loss_text: Weighted cross-entropy of the assistant's ids, nats.
        loss_balance: Load-balancing loss.
        loss_by_kind: Cross-entropy by kind of reply, unweighted, nats; kinds that occurred.
        router_load: Share of the ids whose first choice each expert is; routers × experts.
        gradient_norm: Before clipping, of the last step.
        lr: Rate of the adapters.
        tokens_per_s: Ids processed, padding left out.
        padding: Share of padding in the batches.
    """

    step: int
    loss_text: float
    loss_balance: float
    loss_by_kind: dict[str, float]
    router_load: list[list[float]]
    gradient_norm: float
    lr: float
    tokens_per_s: float
    padding: float


class Meter:
    """Sums between two log lines."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._losses: list[Losses] = []
        self._ids = self._cells = 0

    def add(self, batch: Batch, losses: Losses) -> None:
        """Count one forward pass."""
        self._losses.append(losses)
        self._ids += int(batch.attention_mask.sum())
        self._cells += batch.attention_mask.numel()

    def line(self, *, step: int, gradient_norm: float, lr: float) -> LogLine:
        """Return the means over what was counted."""
        passes = len(self._losses)
        elapsed = max(time.monotonic() - self._started, 1e-9)
        sums = sum(losses.kind_sums.cpu() for losses in self._losses)
        counts = sum(losses.kind_counts.cpu() for losses in self._losses)
        load = sum(losses.router_load.cpu() for losses in self._losses) / passes
        return LogLine(
            step=step,
            loss_text=sum(float(losses.text) for losses in self._losses) / passes,
            loss_balance=sum(float(losses.balance) for losses in self._losses) / passes,
            loss_by_kind={
                kind: float(sums[i] / counts[i])
                for i, kind in enumerate(REPLY_KINDS)
                if counts[i] > 0
            },
            router_load=[[round(share, 4) for share in router] for router in load.tolist()],
            gradient_norm=gradient_norm,
            lr=lr,
            tokens_per_s=self._ids / elapsed,
            padding=1 - self._ids / self._cells,
        )
