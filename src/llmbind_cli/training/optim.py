"""What both engines do to the weights: AdamW, its parameter groups and its learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.token_rows import attached_rows
from llmbind_cli.recipes.schema import TrainSection


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How an engine turns gradients into new weights.

    Attributes:
        groups: Parameter groups, each name → parameter and its peak rate.
        betas: Decay rates of AdamW.
        weight_decay: Weight decay of AdamW.
        clip: Largest gradient norm.
        accumulation: Forward passes of one process in one optimizer step.
        warmup_steps: Steps of linear warm-up.
        total_steps: Steps after which a linear schedule reaches 0; ``None`` for a constant rate.
    """

    groups: list[tuple[dict[str, nn.Parameter], float]]
    betas: tuple[float, float]
    weight_decay: float
    clip: float
    accumulation: int
    warmup_steps: int
    total_steps: int | None

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of all groups."""
        return {name: p for params, _ in self.groups for name, p in params.items()}

    def optimizer(self) -> torch.optim.AdamW:
        """Return a fresh AdamW over the groups, at the rates of the first step."""
        optimizer = torch.optim.AdamW(
            [{"params": list(params.values()), "lr": lr} for params, lr in self.groups],
            betas=self.betas,
            weight_decay=self.weight_decay,
        )
        self.set_rates(optimizer, step=0)
        return optimizer

    def set_rates(self, optimizer: torch.optim.Optimizer, *, step: int) -> None:
        """Give each group of ``optimizer`` its rate after ``step`` optimizer steps."""
        factor = learning_rate_factor(
            step, warmup_steps=self.warmup_steps, total_steps=self.total_steps
        )
        for group, (_, peak) in zip(optimizer.param_groups, self.groups, strict=True):
            group["lr"] = peak * factor


def total_steps(train: TrainSection, num_samples: int, *, processes: int = 1) -> int:
    """Return the optimizer steps of a whole run.

    Args:
        train: For ``steps`` or ``epochs``, batch size and accumulation.
        num_samples: Samples in an epoch.
        processes: Processes that share the batches.
    """
    if train.steps is not None:
        return train.steps
    batches = math.ceil(num_samples / train.batch_size) * float(train.epochs or 0)
    return max(1, math.ceil(batches / (train.accumulation * processes)))


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int | None) -> float:
    """Return the factor on the peak rate after ``step`` optimizer steps.

    Linear from 0 over the warm-up, then linear to 0 at ``total_steps`` (DeepSpeed's
    WarmupDecayLR), or constant when that is ``None``. The first step already moves.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if total_steps is None:
        return 1.0
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def parameter_groups(
    model: BoundModel, *, lr: float, rows_lr: float, sight_lr: float | None = None
) -> list[tuple[dict[str, nn.Parameter], float]]:
    """Return (name → parameter, peak rate) for adapters, new token rows and the heads of sight."""
    rows = attached_rows(model.language_model)
    row_ids = {id(row) for row in rows.values()}
    adapters = {
        name: parameter
        for name, parameter in model.language_model.named_parameters()
        if parameter.requires_grad and id(parameter) not in row_ids
    }
    groups = [(adapters, lr), (rows, rows_lr)]
    if model.sight is not None:
        heads = {
            f"sight.{name}": parameter
            for name, parameter in model.sight.heads().items()
            if parameter.requires_grad
        }
        groups.append((heads, sight_lr or lr))
    return groups
