"""The check that tensors read from a file are exactly those expected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuses tensors that are missing, unexpected, of another shape or type, or not finite.

    Args:
        path: The file they were read from, for the message.
        tensors: Name to tensor.
        expected: Name to shape.

    Raises:
        IntegrityError: Names every tensor at fault (fault 32).
    """
    faults = [f"{key} is missing" for key in sorted(expected.keys() - tensors.keys())]
    faults += [f"{key} is unexpected" for key in sorted(tensors.keys() - expected.keys())]
    for key in sorted(expected.keys() & tensors.keys()):
        tensor = tensors[key]
        if tuple(tensor.shape) != expected[key]:
            faults.append(f"{key} has shape {tuple(tensor.shape)}, expected {expected[key]}")
        elif not tensor.is_floating_point():
            faults.append(f"{key} has dtype {tensor.dtype}, expected floating point")
        elif not tensor.isfinite().all():
            faults.append(f"{key} contains NaN or infinity")
    if faults:
        raise IntegrityError(f"{path}: {'; '.join(faults)}")
