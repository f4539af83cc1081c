"""TensorBoard events beside the log, for recipes that say ``train.tensorboard = true``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llmbind_cli.errors import UnavailableError
from llmbind_cli.training.meter import LogLine

EVENTS_DIR = "tensorboard"


def require_tensorboard() -> None:
    """Refuse to go on where TensorBoard is not installed.

    Raises:
        UnavailableError: It is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UnavailableError(
            "train.tensorboard = true needs TensorBoard: pip install 'llmbind[train]', or --set "
            "train.tensorboard=false"
        )


class EventWriter:
    """Writer of one run's events; a context manager.

    Args:
        directory: The run's output folder; the events go to a folder in it.
        first_step: Optimizer steps already done: what an earlier process wrote of later ones is
            no longer shown.
    """

    def __init__(self, directory: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(directory / EVENTS_DIR, purge_step=first_step + 1)

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, line: LogLine) -> None:
        """Write every number of a log line under the name that it has there."""
        scalars = {
            "loss/text": line.loss_text,
            "loss/balance": line.loss_balance,
            "gradient_norm": line.gradient_norm,
            "lr": line.lr,
            "speed/tokens_per_s": line.tokens_per_s,
            "speed/padding": line.padding,
            "speed/peak_memory_gib": line.peak_memory_gib,
        }
        scalars |= {f"loss_by_kind/{kind}": loss for kind, loss in line.loss_by_kind.items()}
        scalars |= {
            f"router_load/{name}/{expert}": share
            for name, shares in line.router_load.items()
            for expert, share in enumerate(shares)
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, line.step)
        self._writer.flush()

    def add_holdout(self, step: int, loss: float) -> None:
        """Write the loss on the dialogues held out."""
        self._writer.add_scalar("loss/holdout", loss, step)
        self._writer.flush()
