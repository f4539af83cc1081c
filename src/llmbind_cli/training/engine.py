"""The engine: what takes a loss to new weights.

The loop talks to :class:`Engine` alone, so that one process with plain PyTorch and a distributed
runtime drive the same loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from llmbind_cli.errors import IntegrityError
from llmbind_cli.training.optim import learning_rate_factor

STATE_NAME = "optimizer.safetensors"


class Engine(Protocol):
    """Owner of the optimizer, the schedule and the precision."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of one forward pass's loss."""
        ...

    def step(self) -> float:
        """Clip, update, advance the schedule, clear the gradients; return the gradient norm."""
        ...

    def learning_rates(self) -> list[float]:
        """Return the current rate of each parameter group."""
        ...

    def save_state(self, directory: Path) -> None:
        """Write what a resumed run needs beside the weights."""
        ...

    def load_state(self, directory: Path, *, step: int) -> None:
        """Read it back, for a run that has done ``step`` optimizer steps."""
        ...


class TorchEngine:
    """One process, plain PyTorch.

    Args:
        groups: AdamW parameter groups, each with ``params`` (name → parameter) and ``lr``.
        betas: Decay rates of AdamW.
        weight_decay: Weight decay of AdamW.
        clip: Largest gradient norm.
        accumulation: Forward passes in one optimizer step.
        warmup_steps: Steps of linear warm-up.
        total_steps: Steps after which a linear schedule reaches 0; ``None`` for a constant rate.
        device: Device of the model.
        dtype: Dtype of the frozen weights; below 32 bits the forward pass runs under autocast.
    """

    def __init__(
        self,
        *,
        groups: Sequence[tuple[dict[str, nn.Parameter], float]],
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
        accumulation: int,
        warmup_steps: int,
        total_steps: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._names = [name for params, _ in groups for name in params]
        self._parameters = [p for params, _ in groups for p in params.values()]
        self._optimizer = torch.optim.AdamW(
            [{"params": list(params.values()), "lr": lr} for params, lr in groups],
            betas=betas,
            weight_decay=weight_decay,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: learning_rate_factor(
                step, warmup_steps=warmup_steps, total_steps=total_steps
            ),
        )
        self._clip = clip
        self._accumulation = accumulation
        self._device = device
        self._dtype = dtype

    def autocast(self) -> AbstractContextManager[object]:
        """Return an autocast context for 16-bit weights, and one that does nothing else."""
        return torch.autocast(
            self._device.type,
            dtype=self._dtype if self._dtype != torch.float32 else torch.bfloat16,
            enabled=self._dtype != torch.float32,
        )

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of ``loss / accumulation``."""
        (loss / self._accumulation).backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """Clip, update, advance the schedule, clear the gradients; return the gradient norm."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def learning_rates(self) -> list[float]:
        """Return the current rate of each parameter group."""
        return [float(rate) for rate in self._schedule.get_last_lr()]

    def save_state(self, directory: Path) -> None:
        """Write AdamW's moments as safetensors, named after the parameters."""
        from safetensors.torch import save_file

        states = [self._optimizer.state[p] for p in self._parameters]
        tensors = {
            f"{key}.{name}": value.contiguous()
            for name, state in zip(self._names, states, strict=True)
            for key, value in state.items()
        }
        save_file(tensors, directory / STATE_NAME)

    def load_state(self, directory: Path, *, step: int) -> None:
        """Read AdamW's moments and put the schedule at ``step``.

        Raises:
            IntegrityError: The file belongs to other parameters.
        """
        from safetensors.torch import load_file

        path = directory / STATE_NAME
        tensors = load_file(path)
        keys = ("step", "exp_avg", "exp_avg_sq")
        if set(tensors) != {f"{key}.{name}" for name in self._names for key in keys}:
            raise IntegrityError(f"{path}: the optimizer state is not that of this model")
        for name, parameter in zip(self._names, self._parameters, strict=True):
            self._optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else self._device)
                for key in keys
            }
        self._schedule.last_epoch = step
        factors = zip(self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self._optimizer.param_groups, factors, strict=True):
            group["lr"] = base * factor(step)
        self._schedule._last_lr = [group["lr"] for group in self._optimizer.param_groups]
