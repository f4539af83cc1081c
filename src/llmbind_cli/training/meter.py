"""What a run reports between two log lines, over all of its processes."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmbind_cli.data.batches import Batch
from llmbind_cli.data.encode import REPLY_KINDS
from llmbind_cli.training.objective import Losses

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of ``log.jsonl``: means since the line before.

    Attributes:
        step: Optimizer steps done.
        loss_text: Weighted cross-entropy of the assistant's ids, nats.
        loss_balance: Load-balancing loss.
        loss_mask: Loss of masks, meant over the forward passes that had some; ``None`` where none
            had.
        loss_box: Loss of boxes, likewise; ``None`` as well for a model without a box head.
        loss_by_kind: Cross-entropy by kind of reply, unweighted, nats; kinds that occurred.
        router_load: From each router's name (``layers.1.gate_proj``) to the share of the ids
            whose first choice each expert is.
        gradient_norm: Before clipping, of the last step; ``None`` where it is not finite.
        lr: Rate of the adapters.
        tokens_per_s: Ids processed by all processes together, padding left out.
        padding: Share of padding in the batches.
        peak_memory_gib: Most memory that any process has held so far: allocated on its CUDA
            device, else resident on the host.
        eta_s: Seconds until the last step, at the mean pace since this launch began.
    """

    step: int
    loss_text: float
    loss_balance: float
    loss_by_kind: dict[str, float]
    router_load: dict[str, list[float]]
    gradient_norm: float | None
    lr: float
    tokens_per_s: float
    padding: float
    peak_memory_gib: float
    eta_s: float
    loss_mask: float | None = None
    loss_box: float | None = None

    def brief(self) -> dict[str, str]:
        """Return what stands beside the progress bar."""
        mask = {} if self.loss_mask is None else {"mask": f"{self.loss_mask:.3f}"}
        return {
            "loss": f"{self.loss_text:.3f}",
            **mask,
            "tok/s": f"{self.tokens_per_s:.0f}",
            "mem": f"{self.peak_memory_gib:.1f}GiB",
        }


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What one process has counted between two log lines, in its host's memory.

    Attributes:
        passes: Forward passes.
        text: Sum of their text losses, nats.
        balance: Sum of their load-balancing losses.
        kind_sums: Sum of the cross-entropy over the ids of each kind of reply, nats, ``[K]``.
        kind_counts: Number of those ids, ``[K]``.
        router_load: Sum of the loads, routers × experts.
        ids: Ids, padding left out.
        cells: Ids, padding included.
        elapsed_s: Seconds since the log line before.
        peak_memory: Most bytes held so far.
        masks: Forward passes with masks, the sum of their mask losses, and of their box losses.
    """

    passes: int
    text: float
    balance: float
    kind_sums: list[float]
    kind_counts: list[int]
    router_load: list[list[float]]
    ids: int
    cells: int
    elapsed_s: float
    peak_memory: int
    masks: tuple[int, float, float] = (0, 0.0, 0.0)


class Meter:
    """Sums between two log lines. Tensors stay on their device until a line is due.

    Args:
        routers: Names of the routers, in the order in which a forward pass calls them.
        first_step: Optimizer steps that earlier processes have done.
        total_steps: Optimizer steps in all.
    """

    def __init__(self, *, routers: Sequence[str], first_step: int, total_steps: int) -> None:
        self._routers = list(routers)
        self._first_step = first_step
        self._total_steps = total_steps
        self._began = time.monotonic()
        self._reset(self._began)

    def _reset(self, now: float) -> None:
        self._since = now
        self._losses: list[Losses] = []
        self._ids: list[Tensor] = []
        self._cells = 0

    def add(self, batch: Batch, losses: Losses) -> None:
        """Count one forward pass."""
        self._losses.append(losses)
        self._ids.append(batch.attention_mask.sum())
        self._cells += batch.attention_mask.numel()

    def totals(self) -> Totals:
        """Return what was counted since the last call, and begin anew.

        Raises:
            ValueError: Nothing was counted.
        """
        if not self._losses:
            raise ValueError("a log line needs at least one forward pass")
        now = time.monotonic()
        totals = Totals(
            passes=len(self._losses),
            text=sum(float(losses.text) for losses in self._losses),
            balance=sum(float(losses.balance) for losses in self._losses),
            kind_sums=torch.stack([losses.kind_sums for losses in self._losses]).sum(0).tolist(),
            kind_counts=torch.stack([losses.kind_counts for losses in self._losses])
            .sum(0)
            .tolist(),
            router_load=torch.stack([losses.router_load for losses in self._losses])
            .sum(0)
            .tolist(),
            ids=sum(int(ids) for ids in self._ids),
            cells=self._cells,
            elapsed_s=now - self._since,
            peak_memory=peak_memory_bytes(self._losses[-1].text.device),
            masks=(
                sum(losses.mask is not None for losses in self._losses),
                sum(float(losses.mask) for losses in self._losses if losses.mask is not None),
                sum(float(losses.box) for losses in self._losses if losses.box is not None),
            ),
        )
        self._reset(now)
        return totals

    def line(
        self, processes: Sequence[Totals], *, step: int, gradient_norm: float, lr: float
    ) -> LogLine:
        """Return the means over what all processes have counted.

        Args:
            processes: The totals of each process.
            step: Optimizer steps done.
            gradient_norm: Of the last step, before clipping.
            lr: Rate of the adapters.
        """
        passes = sum(one.passes for one in processes)
        ids = sum(one.ids for one in processes)
        sums = [sum(values) for values in zip(*(one.kind_sums for one in processes), strict=True)]
        counts = [
            sum(values) for values in zip(*(one.kind_counts for one in processes), strict=True)
        ]
        load = torch.tensor([one.router_load for one in processes]).sum(0) / passes
        masked, mask, box = (sum(one.masks[i] for one in processes) for i in range(3))
        pace_s = (time.monotonic() - self._began) / max(1, step - self._first_step)
        return LogLine(
            step=step,
            loss_text=sum(one.text for one in processes) / passes,
            loss_balance=sum(one.balance for one in processes) / passes,
            loss_by_kind={
                kind: total / count
                for kind, total, count in zip(REPLY_KINDS, sums, counts, strict=True)
                if count > 0
            },
            router_load={
                name: [round(share, 4) for share in shares]
                for name, shares in zip(self._routers, load.tolist(), strict=True)
            },
            gradient_norm=gradient_norm if math.isfinite(gradient_norm) else None,
            lr=lr,
            tokens_per_s=ids / max(*(one.elapsed_s for one in processes), 1e-9),
            padding=1 - ids / sum(one.cells for one in processes),
            peak_memory_gib=round(max(one.peak_memory for one in processes) / GIB, 3),
            eta_s=round(pace_s * (self._total_steps - step), 1),
            loss_mask=mask / masked if masked else None,
            loss_box=box / masked if masked and box else None,
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held: on a CUDA device, else on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
