"""The training loop, top to bottom."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator

from llmbind_cli.console import console
from llmbind_cli.data.batches import Batch
from llmbind_cli.errors import LlmbindError
from llmbind_cli.interrupt import GracefulInterrupt
from llmbind_cli.recipes.schema import TrainSection
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.engine import Engine
from llmbind_cli.training.heap import return_freed_memory
from llmbind_cli.training.meter import Meter
from llmbind_cli.training.run_log import RunLog
from llmbind_cli.training.tensorboard import EventWriter

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DivergedError(LlmbindError):
    """The loss is NaN or infinite; the last checkpoint stays as it was (fault 39)."""


def train_loop(
    engine: Engine,
    batches: Iterator[Batch],
    *,
    first_step: int,
    total_steps: int,
    train: TrainSection,
    processes: Processes,
    meter: Meter,
    log: RunLog,
    events: EventWriter | None,
    checkpoint: Callable[[int], None],
    evaluate: Callable[[int], None] | None,
    interrupt: GracefulInterrupt,
) -> tuple[int, int | None]:
    """Train until ``total_steps``, the time limit or a signal.

    The processes agree before each optimizer step on whether the loss is finite and whether this
    step is the last, so that all of them take the same steps.

    Args:
        engine: Owner of objective, optimizer, schedule and precision.
        batches: This process's batches without end, already past those of earlier steps.
        first_step: Optimizer steps already done.
        total_steps: Optimizer steps in all.
        train: For accumulation, intervals and the time limit.
        processes: All processes of the run.
        meter: Counts what a log line reports.
        log: Where the losses go, as means over the processes.
        events: Where they go as well, in TensorBoard's form; ``None`` for nowhere.
        checkpoint: Called with the step whenever a checkpoint is due, and at the end.
        evaluate: Called with the step whenever the loss on the held-out dialogues is due, and at
            the end; ``None`` where nothing is held out.
        interrupt: Tells whether a signal asks to stop.

    Returns:
        Optimizer steps done, and the signal that ended the run before its time, if one did.

    Raises:
        DivergedError: The loss is not finite.
    """
    engine.train(True)
    started = time.monotonic()
    bar = console.progress(total=total_steps, desc="training", unit="step")
    step, stopped_by = first_step, None
    with bar:
        bar.update(first_step)
        if evaluate is not None and _was_left_out(log, first_step, total_steps, train, processes):
            evaluate(first_step)
        while step < total_steps:
            total = 0.0
            for _ in range(train.accumulation):
                batch = next(batches)
                losses = engine.losses(batch)
                engine.backward(losses.total)
                losses = dataclasses.replace(losses, total=losses.total.detach())
                total += float(losses.total)
                meter.add(batch, losses)

            limit = train.time_limit_s
            out_of_time = limit is not None and time.monotonic() - started > limit
            total, late, *signals = processes.sums(
                [total, out_of_time, *(interrupt.received == number for number in STOP_SIGNALS)]
            )
            if not math.isfinite(total):
                raise DivergedError(
                    f"step {step + 1}: the loss is {total}; the last checkpoint "
                    f"is kept; lower optim.lr and use --resume"
                )
            received = [n for n, count in zip(STOP_SIGNALS, signals, strict=True) if count]
            stopped_by = max(received, default=None)
            norm = engine.step()
            step += 1
            bar.update(1)

            ends = step == total_steps or bool(late)
            if step % train.log_every == 0 or step == total_steps:
                totals = processes.gather(meter.totals())
                lr = engine.learning_rates()[0]
                line = meter.line(totals, step=step, gradient_norm=norm, lr=lr)
                log.write(dataclasses.asdict(line))
                if events is not None:
                    events.add(line)
                bar.set_postfix(line.brief())
                return_freed_memory()
            if stopped_by is not None:
                break
            if evaluate is not None and (ends or step % train.evaluate_every == 0):
                evaluate(step)
            if ends:
                break
            if step % train.checkpoint_every == 0:
                checkpoint(step)
    checkpoint(step)
    return step, stopped_by


def _was_left_out(
    log: RunLog, step: int, total_steps: int, train: TrainSection, processes: Processes
) -> bool:
    """Tell whether a run was stopped when the loss on the held-out dialogues was due."""
    due = step > 0 and (step == total_steps or step % train.evaluate_every == 0)
    missing = due and not log.holds("loss_holdout", step=step)
    return processes.gather(missing)[0]
