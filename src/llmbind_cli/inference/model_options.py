"""Which bundle answers, where and how: the flags that every command with a model shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.collector import collector_paused
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.generators.settings import GeneratorSettings
from llmbind_cli.model.bundle_folder import locate_bundle
from llmbind_cli.model.config import BundleConfig

if TYPE_CHECKING:
    from llmbind_cli.inference.planner import Plan
    from llmbind_cli.inference.requests import Request
    from llmbind_cli.model.bound_model import BoundModel


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which bundle and generators answer, where and how.

    Attributes:
        model: Value of ``--model``.
        device: Value of ``--device``.
        dtype: Value of ``--dtype``.
        offline: Value of ``--offline``.
        settings: What the user asks of every generator.
    """

    model: str
    device: str
    dtype: str
    offline: bool
    settings: GeneratorSettings = field(default_factory=GeneratorSettings)

    def load(self) -> BoundModel:
        """Load the bundle; see :func:`llmbind_cli.model.loader.load_model`.

        What else needs torch is best imported after this, which imports it with the collector
        paused.
        """
        with collector_paused():
            # Not at the top: torch is imported with it, and a finished batch needs neither.
            from llmbind_cli.model.loader import load_model

        return load_model(self.model, device=self.device, dtype=self.dtype, offline=self.offline)

    def ask(
        self, request: Request, *, max_new_tokens: int, run_seed: int
    ) -> tuple[BoundModel, Plan]:
        """Load the bundle and ask it one thing; return it with what it decides."""
        model = self.load()
        from llmbind_cli.inference.planner import Planner

        planner = Planner(model, max_new_tokens=max_new_tokens, run_seed=run_seed)
        (plan,) = planner.plan([request])
        return model, plan

    def folder(self) -> Path:
        """Return the bundle's directory."""
        return locate_bundle(self.model, offline=self.offline)

    def generators(self, overrides: Mapping[str, str]) -> GeneratorRegistry:
        """Return the bundle's generators, with those of ``--generator`` over them.

        Reads the bundle's table only; no model is loaded.
        """
        folder = self.folder()
        config = BundleConfig.read(folder)
        return GeneratorRegistry(
            bundle=config.generators,
            bundle_name=config.name,
            overrides=overrides,
            folder=folder,
            device=self.device,
            dtype=self.dtype,
            offline=self.offline,
            settings=self.settings,
        )
