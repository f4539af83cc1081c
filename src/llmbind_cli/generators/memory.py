"""How much memory the parameters of generators take, before they are loaded and after."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmbind_cli.generators import pipeline_folder
from llmbind_cli.generators.base import Generator
from llmbind_cli.generators.pipeline_generator import PipelineGenerator, pipeline_dtype
from llmbind_cli.nn.device import choose_device


def planned_bytes(folder: Path, *, device: str, dtype: str) -> int:
    """Return what the parameters of a pipeline folder will take, from the headers of its files.

    Args:
        folder: The pipeline folder.
        device: Value of ``--device``.
        dtype: Value of ``--dtype``.
    """
    return pipeline_folder.weight_bytes(folder, pipeline_dtype(dtype, choose_device(device)))


def parameter_bytes(generators: Iterable[Generator]) -> int:
    """Return what the parameters of loaded generators take; shared ones count once.

    An installed generator that is no pipeline may tell its own with an attribute ``memory_bytes``;
    without it, it counts as nothing.

    Args:
        generators: Any number.
    """
    counted: dict[int, int] = {}
    others = 0
    for made in generators:
        if not isinstance(made, PipelineGenerator):
            others += int(getattr(made, "memory_bytes", 0))
            continue
        for network in made.networks().values():
            for parameter in network.parameters():
                storage = parameter.untyped_storage()
                counted[storage.data_ptr()] = storage.nbytes()
    return others + sum(counted.values())
