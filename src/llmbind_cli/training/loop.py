"""The training loop, top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.data.batches import Batch
from llmbind_cli.errors import LlmbindError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.recipes.schema import OptimSection, TrainSection
from llmbind_cli.training.engine import Engine
from llmbind_cli.training.losses import compute_losses

LOG_NAME = "log.jsonl"


class DivergedError(LlmbindError):
    """The loss is NaN or infinite; the last checkpoint stays as it was (fault 39)."""


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of ``log.jsonl``: means since the line before.

    Attributes:
        step: Optimizer steps done.
        loss_text: Weighted cross-entropy of the assistant's ids, nats.
        loss_balance: Load-balancing loss.
        gradient_norm: Before clipping, of the last step.
        lr: Rate of the adapters.
        tokens_per_s: Ids processed, padding left out.
        padding: Share of padding in the batches.
    """

    step: int
    loss_text: float
    loss_balance: float
    gradient_norm: float
    lr: float
    tokens_per_s: float
    padding: float


def train_loop(
    model: BoundModel,
    engine: Engine,
    batches: Iterator[Batch],
    *,
    first_step: int,
    total_steps: int,
    optim: OptimSection,
    train: TrainSection,
    directory: Path,
    checkpoint: Callable[[int], None],
    stop_requested: Callable[[], bool],
) -> int:
    """Train until ``total_steps``, the time limit or a request to stop.

    Args:
        model: The model; set to training mode here.
        engine: Owner of optimizer, schedule and precision.
        batches: Batches without end, already past those of earlier steps.
        first_step: Optimizer steps already done.
        total_steps: Optimizer steps in all.
        optim: For the weight of the load-balancing loss.
        train: For accumulation, intervals and the time limit.
        directory: Where ``log.jsonl`` grows.
        checkpoint: Called with the step whenever a checkpoint is due, and at the end.
        stop_requested: Asked after each step; true ends the run with a checkpoint.

    Returns:
        Optimizer steps done.

    Raises:
        DivergedError: The loss is not finite.
    """
    model.language_model.train()
    started = time.monotonic()
    meter = _Meter()
    bar = console.progress(total=total_steps, desc="training", unit="step")
    step = first_step
    with bar, (directory / LOG_NAME).open("a", encoding="utf-8") as log:
        bar.update(first_step)
        while step < total_steps:
            for _ in range(train.accumulation):
                batch = next(batches).to(model.device)
                with engine.autocast():
                    losses = compute_losses(model, batch, aux_coefficient=optim.aux_coefficient)
                total = float(losses.total.detach())
                if not math.isfinite(total):
                    raise DivergedError(
                        f"step {step + 1}: the loss is {total}; the last checkpoint "
                        f"in {directory} is kept; lower optim.lr and use --resume"
                    )
                engine.backward(losses.total)
                meter.add(batch, float(losses.text), float(losses.balance))
            norm = engine.step()
            step += 1
            bar.update(1)
            if step % train.log_every == 0 or step == total_steps:
                line = meter.line(step=step, gradient_norm=norm, lr=engine.learning_rates()[0])
                log.write(json.dumps(asdict(line)) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{line.loss_text:.3f}", tok_s=f"{line.tokens_per_s:.0f}")
                meter = _Meter()
            limit = train.time_limit_s
            out_of_time = limit is not None and time.monotonic() - started > limit
            if out_of_time or stop_requested():
                break
            if step % train.checkpoint_every == 0 and step < total_steps:
                checkpoint(step)
    checkpoint(step)
    return step


class _Meter:
    """Sums between two log lines."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.batches = 0
        self.text = self.balance = 0.0
        self.ids = self.cells = 0

    def add(self, batch: Batch, text: float, balance: float) -> None:
        self.batches += 1
        self.text += text
        self.balance += balance
        self.ids += int(batch.attention_mask.sum())
        self.cells += batch.attention_mask.numel()

    def line(self, *, step: int, gradient_norm: float, lr: float) -> LogLine:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        return LogLine(
            step=step,
            loss_text=self.text / self.batches,
            loss_balance=self.balance / self.batches,
            gradient_norm=gradient_norm,
            lr=lr,
            tokens_per_s=self.ids / elapsed,
            padding=1 - self.ids / self.cells,
        )
