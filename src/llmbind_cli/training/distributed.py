"""The processes of one run: who this one is, and how they agree.

A launcher (``torchrun``, ``deepspeed``) starts the processes and tells each its number through
the environment. Without one there is a single process, and every method here is a plain call.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from llmbind_cli.errors import LlmbindError

Item = TypeVar("Item")


class Processes:
    """All processes of a run, seen from one of them.

    Args:
        rank: Number of this process, from 0.
        local_rank: Number of this process on its host.
        size: Number of processes.
        restarts: How often the launcher has started the run anew after a failure.

    Raises:
        ValueError: ``rank`` is not below ``size``.
    """

    def __init__(
        self, *, rank: int = 0, local_rank: int = 0, size: int = 1, restarts: int = 0
    ) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank must be in [0, {size}), got {rank}")
        self.rank, self.local_rank, self.size, self.restarts = rank, local_rank, size, restarts
        self._group: Any = None

    @classmethod
    def from_environment(cls) -> Processes:
        """Read what the launcher says; a single process if there was none."""
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            size=int(os.environ.get("WORLD_SIZE", "1")),
            restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes logs, bundles and results."""
        return self.rank == 0

    @property
    def launch(self) -> str:
        """Name of the launcher's run; its restarts have the same, another launch has another."""
        name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        return name if name != "none" else f"{socket.gethostname()}:{os.getppid()}"

    @contextmanager
    def joined(self, device_type: str) -> Iterator[None]:
        """Connect the processes for the length of a ``with`` block.

        Args:
            device_type: ``cuda`` or ``cpu``: what the gradients lie on.
        """
        if device_type == "cuda":
            torch.cuda.set_device(self.local_rank)
        if self.size == 1:
            yield
            return
        store, rank, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        dist.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            # A launcher's store outlives a failed attempt, whose addresses nobody answers any more.
            store=dist.PrefixStore(  # type: ignore[attr-defined]
                f"attempt-{self.restarts}", store
            ),
            rank=rank,
            world_size=size,
        )
        # What is agreed on here lies in the host's memory, which NCCL does not serve.
        self._group = dist.new_group(backend="gloo")
        try:
            yield
        finally:
            self._group = None
            dist.destroy_process_group()

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums over the processes; NaN and infinity spread to all of them."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self._group)
        return [float(value) for value in tensor]

    def largest(self, values: list[int]) -> list[int]:
        """Return the largest of each value over the processes."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)
        return [int(value) for value in tensor]

    def gather(self, item: Item) -> list[Item]:
        """Return every process's item, in the order of their numbers."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item, group=self._group)
        return items

    def first(self, work: Callable[[], object]) -> None:
        """Let the first process do something while the others wait; see :meth:`every`."""
        self.every(work if self.is_first else lambda: None)

    def every(self, work: Callable[[], object]) -> None:
        """Let each process do something and wait for all.

        Raises:
            LlmbindError: It failed here, or on another process, which may be on another host:
                all of them end with the same exit code.
            Exception: Whatever ``work`` raised here.
        """
        mine: Exception | None = None
        try:
            work()
        except Exception as error:
            if self.size == 1:
                raise
            mine = error
        reports = self.gather(None if mine is None else _portable(mine))
        if mine is not None:
            raise mine
        for rank, report in enumerate(reports):
            if report is not None:
                kind, message = report
                raise kind(f"process {rank}: {message}")


def _portable(error: Exception) -> tuple[type[LlmbindError], str]:
    """Return what another process needs to end as this one does."""
    if isinstance(error, LlmbindError):
        return type(error), str(error)
    return LlmbindError, f"{type(error).__name__}: {error}"
