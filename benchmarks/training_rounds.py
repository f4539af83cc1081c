"""What the process of `training.py` and those of its contenders share."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# With one thread, the processor's clock does not count the time other processes take.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all contenders share; the fields are the options of the command line."""

    base: str | None
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    device: str
    dtype: str
    threads: int
    clock: str
    rounds: int
    steps: int
    batch_size: int
    accumulation: int
    median_length: int

    @property
    def turns(self) -> int:
        """Rounds, the first included, which warms up and does not count."""
        return 1 + self.rounds


@dataclass(frozen=True, kw_only=True)
class Result:
    """One contender's figures.

    Attributes:
        seconds: Time of each round, the first left out.
        peak_bytes: Highest memory of the process, on CUDA of its tensors.
        start_bytes: The same before the first step.
        trained: Trainable parameters.
        first_loss: Mean cross-entropy of the first optimizer step's targets, nats.
        last_loss: That of the last step.
    """

    seconds: list[float]
    peak_bytes: int
    start_bytes: int
    trained: int
    first_loss: float
    last_loss: float


class Channel(Protocol):
    """Where a contender waits for its turns and reports: one end of a pipe."""

    def recv(self) -> object:
        """Wait for the next turn."""
        ...

    def send(self, message: Any, /) -> None:
        """Report."""
        ...


class RoundClock:
    """Times ``steps`` optimizer steps at a time, and waits for a turn before each round."""

    def __init__(self, channel: Channel, settings: Settings, device: torch.device) -> None:
        self._channel, self._settings, self._device = channel, settings, device
        self._done = 0
        self._started = 0.0
        self.seconds: list[float] = []

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return CLOCKS[self._settings.clock]()

    def wait(self) -> None:
        """Wait for the turn, then start the round's time."""
        self._channel.recv()
        self._started = self._now()

    def step_done(self) -> None:
        """Count an optimizer step; at a round's end report, and wait for the next turn."""
        self._done += 1
        if self._done % self._settings.steps == 0:
            self.seconds.append(self._now() - self._started)
            self._channel.send(self.seconds[-1])
            if len(self.seconds) < self._settings.turns:
                self.wait()


class LossRecord:
    """Sum of the cross-entropy and number of targets of each forward pass."""

    def __init__(self, accumulation: int) -> None:
        self._accumulation = accumulation
        self._passes: list[tuple[Tensor, Tensor | float]] = []

    def observe(self, loss_sum: Tensor, count: Tensor | float) -> None:
        """Add one forward pass."""
        self._passes.append((loss_sum.detach(), count))

    def of_step(self, step: int) -> float:
        """Mean over the targets of an optimizer step; −1 is the last one."""
        first = step * self._accumulation % len(self._passes)
        passes = self._passes[first : first + self._accumulation]
        return float(sum(total for total, _ in passes)) / float(sum(count for _, count in passes))


def peak_bytes(device: torch.device) -> int:
    """Highest memory so far: of the tensors on CUDA, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
