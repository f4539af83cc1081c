"""The number format that a training's products run in."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from llmbind_cli.nn.device import choose_dtype
from llmbind_cli.training.engine import autocast

_CPU = torch.device("cpu")


def cpu_autocast() -> AbstractContextManager[object]:
    """Return an autocast to bfloat16 where the processor multiplies it, else one to nothing.

    Where it does not, products of bfloat16 take ten times as long as those of float32.
    """
    return autocast(_CPU, choose_dtype("auto", _CPU))
