"""Learning-rate schedule and parameter groups."""

from __future__ import annotations

from torch import nn

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.token_rows import attached_rows


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
    model: BoundModel, *, lr: float, rows_lr: float
) -> list[tuple[dict[str, nn.Parameter], float]]:
    """Return (name → parameter, peak rate) for the adapters and for the new token rows."""
    rows = attached_rows(model.language_model)
    row_ids = {id(row) for row in rows.values()}
    adapters = {
        name: parameter
        for name, parameter in model.language_model.named_parameters()
        if parameter.requires_grad and id(parameter) not in row_ids
    }
    return [(adapters, lr), (rows, rows_lr)]
