"""The engine that runs on DeepSpeed: ZeRO 0 to 3, one process or many (arXiv 1910.02054).

Weights keep the dtypes that the plain engine gives them: the frozen base that of the model, the
trained adapters and token rows float32, with autocast around the forward pass. So DeepSpeed runs
in its float32 mode and only shards, gathers and steps; the arithmetic is that of
:class:`~llmbind_cli.training.engine.TorchEngine`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmbind_cli.data.batches import Batch
from llmbind_cli.errors import UnavailableError
from llmbind_cli.recipes.schema import EngineSection
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.engine import autocast, read_moments, write_moments
from llmbind_cli.training.objective import LanguageObjective, Losses
from llmbind_cli.training.optim import Optimization

PERSISTENT_ELEMENTS = 100_000
"""Under ZeRO 3, tensors of fewer elements stay whole on every process once gathered."""

BUCKET_ELEMENTS = 50_000_000
"""Most elements that ZeRO reduces or gathers at once."""


def require_deepspeed() -> None:
    """Refuse to go on where DeepSpeed is not installed.

    Raises:
        UnavailableError: It is not.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UnavailableError(
            "[engine] kind = \"deepspeed\" needs DeepSpeed: pip install 'llmbind[train]'"
        )


class DeepSpeedEngine:
    """ZeRO over all processes of the run; see :class:`~llmbind_cli.training.engine.Engine`.

    Args:
        objective: What is minimised; ZeRO 3 shards its weights in place.
        optimization: The optimizer and its schedule.
        settings: ``[engine]`` of the recipe.
        processes: The processes of the run, joined.
        batch_size: Dialogues in one forward pass.
        device: Device of the model.
        dtype: Dtype of the frozen weights.

    Raises:
        UnavailableError: DeepSpeed is not installed.
    """

    def __init__(
        self,
        objective: LanguageObjective,
        optimization: Optimization,
        *,
        settings: EngineSection,
        processes: Processes,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        deepspeed = _import_deepspeed(device, processes)
        self._deepspeed = deepspeed
        self._optimization = optimization
        self._settings = settings
        self._processes = processes
        self._parameters = optimization.named_parameters()
        self._steps = 0
        self._device = device
        if settings.zero_stage == 3:
            objective.most = processes.largest
        trained = sum(parameter.numel() for parameter in self._parameters.values())
        self._engine, *_ = deepspeed.initialize(
            model=_AsTensors(objective, device, dtype),
            optimizer=optimization.optimizer(),
            config=configuration(
                settings,
                optimization,
                batch_size=batch_size,
                num_processes=processes.size,
                num_trained=trained,
            ),
        )

    def train(self, mode: bool) -> None:
        """Set training or evaluation mode."""
        self._engine.train(mode)

    def losses(self, batch: Batch) -> Losses:
        """Run the objective forward."""
        return Losses(**dict(zip(_FIELDS, self._engine(batch.to(self._device)), strict=True)))

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of ``loss / accumulation``, averaged over the processes."""
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts

    def step(self) -> float:
        """Clip, update, advance the schedule, clear the gradients; return the gradient norm."""
        norm = None
        if self._settings.zero_stage == 0:
            norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._optimization.clip)
        self._engine.step()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        self._steps += 1
        self._optimization.set_rates(self._engine.optimizer, step=self._steps)
        return float(norm)

    def learning_rates(self) -> list[float]:
        """Return the current rate of each parameter group."""
        return [float(group["lr"]) for group in self._engine.optimizer.param_groups]

    def whole_weights(self) -> AbstractContextManager[object]:
        """Gather the trained weights, which ZeRO 3 shards; the frozen ones stay sharded."""
        gathered: AbstractContextManager[object] = self._deepspeed.zero.GatheredParameters(
            list(self._parameters.values()), enabled=self._settings.zero_stage == 3
        )
        return gathered

    def save_state(self, directory: Path) -> None:
        """Write this process's shard of AdamW's moments as safetensors.

        Not by DeepSpeed's own checkpoint, which is pickled and holds the frozen base as well.
        """
        write_moments(self._state_path(directory), self._adamw(), self._stepped())

    def load_state(self, directory: Path, *, step: int) -> None:
        """Read this process's shard and put the schedule at ``step``."""
        read_moments(self._state_path(directory), self._adamw(), self._stepped())
        self._steps = step
        self._optimization.set_rates(self._engine.optimizer, step=step)

    def _state_path(self, directory: Path) -> Path:
        return directory / f"optimizer-{self._processes.rank}-of-{self._processes.size}.safetensors"

    def _adamw(self) -> torch.optim.Optimizer:
        """The optimizer inside ZeRO's."""
        optimizer = self._engine.optimizer
        inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        return inner

    def _stepped(self) -> dict[str, Tensor]:
        """The tensors that AdamW steps in this process: whole parameters, or flat shards."""
        optimizer, stage = self._engine.optimizer, self._settings.zero_stage
        if stage == 0:
            return dict(self._parameters)
        flat: list[Tensor] = (
            optimizer.fp32_partitioned_groups_flat
            if stage == 3
            else optimizer.single_partition_of_fp32_groups
        )
        return {f"shard.{number}": tensor for number, tensor in enumerate(flat)}


def configuration(
    settings: EngineSection,
    optimization: Optimization,
    *,
    batch_size: int,
    num_processes: int,
    num_trained: int,
) -> dict[str, Any]:
    """Return DeepSpeed's configuration.

    Args:
        settings: ``[engine]`` of the recipe.
        optimization: The optimizer and its schedule.
        batch_size: Dialogues in one forward pass.
        num_processes: Processes of the run.
        num_trained: Trained elements; no bucket needs to be larger.
    """
    bucket = max(1, min(BUCKET_ELEMENTS, num_trained))
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": False,
        "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
    }
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": optimization.accumulation,
        "train_batch_size": batch_size * optimization.accumulation * num_processes,
        # Stage 0 has no norm of its own to report, so its gradients are clipped here.
        "gradient_clipping": optimization.clip if settings.zero_stage else 0.0,
        "zero_optimization": zero,
        # The plain AdamW of the other engine steps the shards, on the host as well.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


class _AsTensors(nn.Module):
    """The objective under autocast, its losses as a tuple, in which DeepSpeed finds tensors."""

    def __init__(
        self, objective: LanguageObjective, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.objective = objective
        self._precision = (device, dtype)

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the losses in the order of their fields."""
        # Inside the module: DeepSpeed switches off an autocast that it finds around it.
        with autocast(*self._precision):
            losses: Losses = self.objective(batch)
        return tuple(getattr(losses, name) for name in _FIELDS)


_FIELDS = tuple(Losses.__dataclass_fields__)


def _import_deepspeed(device: torch.device, processes: Processes) -> Any:
    """Import DeepSpeed so that it keeps off stdout and takes the run's own process group."""
    require_deepspeed()
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(processes.local_rank))
    # Its log handler keeps the stdout of the moment of its import.
    with contextlib.redirect_stdout(sys.stderr):
        import deepspeed
        from deepspeed.utils import logger
    logger.setLevel(logging.ERROR)
    # It calls collectives by names that newer versions of torch warn about, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # Compiled for a minute at first use, to save microseconds.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )
    return deepspeed
