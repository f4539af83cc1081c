"""Which bundle answers, where and how: the flags that every command with a model shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.config import BundleConfig
from llmbind_cli.model.loader import load_model, locate_bundle


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Values of ``--model``, ``--device``, ``--dtype`` and ``--offline``."""

    model: str
    device: str
    dtype: str
    offline: bool

    def load(self) -> BoundModel:
        """Load the bundle; see :func:`llmbind_cli.model.loader.load_model`."""
        return load_model(self.model, device=self.device, dtype=self.dtype, offline=self.offline)

    def generators(self, overrides: Mapping[str, str]) -> GeneratorRegistry:
        """Return the bundle's generators, with those of ``--generator`` over them.

        Reads the bundle's table only; no model is loaded.
        """
        folder = locate_bundle(self.model, offline=self.offline)
        return GeneratorRegistry(
            bundle=BundleConfig.read(folder).generators,
            overrides=overrides,
            folder=folder,
            device=self.device,
            dtype=self.dtype,
            offline=self.offline,
        )
