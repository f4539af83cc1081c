"""The engine: what takes a batch to its losses, and a loss to new weights.

The loop talks to :class:`Engine` alone, so that one process with plain PyTorch and a distributed
runtime drive the same loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from llmbind_cli.data.batches import Batch
from llmbind_cli.errors import IntegrityError
from llmbind_cli.training.objective import LanguageObjective, Losses
from llmbind_cli.training.optim import Optimization

STATE_NAME = "optimizer.safetensors"


class Engine(Protocol):
    """Owner of the objective, the optimizer, the schedule and the precision."""

    def train(self, mode: bool) -> None:
        """Set training (``True``) or evaluation mode."""
        ...

    def losses(self, batch: Batch) -> Losses:
        """Run the objective forward on a batch, which may lie on another device."""
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

    def whole_weights(self) -> AbstractContextManager[object]:
        """Return a context in which every process holds all trained weights, to read them."""
        ...

    def save_state(self, directory: Path) -> None:
        """Write what a resumed run needs beside the weights; every process calls it."""
        ...

    def load_state(self, directory: Path, *, step: int) -> None:
        """Read it back, for a run that has done ``step`` optimizer steps.

        The weights are in the model before the engine is made.

        Raises:
            IntegrityError: The file belongs to other parameters.
        """
        ...


class TorchEngine:
    """One process, plain PyTorch.

    Args:
        objective: What is minimised.
        optimization: The optimizer and its schedule.
        device: Device of the model.
        dtype: Dtype of the frozen weights; below 32 bits the forward pass runs under autocast.
    """

    def __init__(
        self,
        objective: LanguageObjective,
        optimization: Optimization,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._objective = objective
        self._optimization = optimization
        self._parameters = optimization.named_parameters()
        self._optimizer = optimization.optimizer()
        self._steps = 0
        self._device = device
        self._dtype = dtype

    def train(self, mode: bool) -> None:
        """Set training or evaluation mode."""
        self._objective.train(mode)

    def losses(self, batch: Batch) -> Losses:
        """Run the objective forward."""
        with autocast(self._device, self._dtype):
            losses: Losses = self._objective(batch.to(self._device))
        return losses

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of ``loss / accumulation``."""
        (loss / self._optimization.accumulation).backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        """Clip, update, advance the schedule, clear the gradients; return the gradient norm."""
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._optimization.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        self._optimization.set_rates(self._optimizer, step=self._steps)
        return float(norm)

    def learning_rates(self) -> list[float]:
        """Return the current rate of each parameter group."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def whole_weights(self) -> AbstractContextManager[object]:
        """Return a context that does nothing: the weights are whole."""
        return nullcontext()

    def save_state(self, directory: Path) -> None:
        """Write AdamW's moments as safetensors, named after the parameters."""
        write_moments(directory / STATE_NAME, self._optimizer, self._parameters)

    def load_state(self, directory: Path, *, step: int) -> None:
        """Read AdamW's moments and put the schedule at ``step``."""
        read_moments(directory / STATE_NAME, self._optimizer, self._parameters)
        self._steps = step
        self._optimization.set_rates(self._optimizer, step=step)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return an autocast context for 16-bit weights, and one that does nothing else."""
    return torch.autocast(
        device.type,
        dtype=dtype if dtype != torch.float32 else torch.bfloat16,
        enabled=dtype != torch.float32,
    )


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def write_moments(
    path: Path, optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]
) -> None:
    """Write AdamW's state of the named tensors as safetensors.

    Args:
        path: File to write.
        optimizer: The optimizer, after at least one step.
        named: Name in the file → the tensor that the optimizer steps.
    """
    from safetensors.torch import save

    tensors = {
        f"{key}.{name}": optimizer.state[tensor][key].cpu().contiguous()
        for name, tensor in named.items()
        for key in _MOMENTS
    }
    # Not save_file: it reports a full disk by an error that is no OSError.
    path.write_bytes(save(tensors))


def read_moments(path: Path, optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> None:
    """Read what :func:`write_moments` wrote.

    Raises:
        IntegrityError: The file is missing, or belongs to other tensors.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise IntegrityError(f"{path}: the optimizer state is missing")
    saved = load_file(path)
    shapes = {
        f"{key}.{name}": () if key == "step" else tuple(tensor.shape)
        for name, tensor in named.items()
        for key in _MOMENTS
    }
    if {name: tuple(tensor.shape) for name, tensor in saved.items()} != shapes:
        raise IntegrityError(f"{path}: the optimizer state is not that of this model")
    for name, tensor in named.items():
        optimizer.state[tensor] = {
            key: saved[f"{key}.{name}"].to("cpu" if key == "step" else tensor.device)
            for key in _MOMENTS
        }
