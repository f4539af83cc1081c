"""The training loop, top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.data.batches import Batch
from llmbind_cli.errors import LlmbindError
from llmbind_cli.recipes.schema import TrainSection
from llmbind_cli.training.engine import Engine
from llmbind_cli.training.meter import Meter
from llmbind_cli.training.objective import LanguageObjective, Losses

LOG_NAME = "log.jsonl"


class DivergedError(LlmbindError):
    """The loss is NaN or infinite; the last checkpoint stays as it was (fault 39)."""


def train_loop(
    objective: LanguageObjective,
    engine: Engine,
    batches: Iterator[Batch],
    *,
    first_step: int,
    total_steps: int,
    train: TrainSection,
    directory: Path,
    checkpoint: Callable[[int], None],
    stop_requested: Callable[[], bool],
) -> int:
    """Train until ``total_steps``, the time limit or a request to stop.

    Args:
        objective: The model with its losses; set to training mode here.
        engine: Owner of optimizer, schedule and precision.
        batches: Batches without end, already past those of earlier steps.
        first_step: Optimizer steps already done.
        total_steps: Optimizer steps in all.
        train: For accumulation, intervals and the time limit.
        directory: Where ``log.jsonl`` grows.
        checkpoint: Called with the step whenever a checkpoint is due, and at the end.
        stop_requested: Asked after each step; true ends the run with a checkpoint.

    Returns:
        Optimizer steps done.

    Raises:
        DivergedError: The loss is not finite.
    """
    objective.train()
    device = next(objective.parameters()).device
    started = time.monotonic()
    meter = Meter()
    bar = console.progress(total=total_steps, desc="training", unit="step")
    step = first_step
    with bar, (directory / LOG_NAME).open("a", encoding="utf-8") as log:
        bar.update(first_step)
        while step < total_steps:
            for _ in range(train.accumulation):
                batch = next(batches).to(device)
                with engine.autocast():
                    losses: Losses = objective(batch)
                total = float(losses.total.detach())
                if not math.isfinite(total):
                    raise DivergedError(
                        f"step {step + 1}: the loss is {total}; the last checkpoint "
                        f"in {directory} is kept; lower optim.lr and use --resume"
                    )
                engine.backward(losses.total)
                meter.add(batch, losses)
            norm = engine.step()
            step += 1
            bar.update(1)
            if step % train.log_every == 0 or step == total_steps:
                line = meter.line(step=step, gradient_norm=norm, lr=engine.learning_rates()[0])
                log.write(json.dumps(asdict(line)) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{line.loss_text:.3f}", tok_s=f"{line.tokens_per_s:.0f}")
                meter = Meter()
            limit = train.time_limit_s
            out_of_time = limit is not None and time.monotonic() - started > limit
            if out_of_time or stop_requested():
                break
            if step % train.checkpoint_every == 0 and step < total_steps:
                checkpoint(step)
    checkpoint(step)
    return step
