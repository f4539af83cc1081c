"""A small binding model with random adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.build import build_model
from llmbind_cli.model.config import SightConfig
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig

TASKS = ["image", "edit", "video", "audio", "segment"]


def build(
    base: Path,
    *,
    seed: int = 0,
    sight: SightConfig | None = None,
    tasks: list[str] | None = None,
    **adapter: Any,
) -> BoundModel:
    """Build a binding model whose adapters are not zero."""
    model = build_model(
        name="tiny",
        base=str(base),
        base_sha256=None,
        tasks=tasks or TASKS,
        adapter=LoraMoeConfig(r=2, num_experts=3, top_k=2, **adapter),
        licences={},
        sight=sight,
        device="cpu",
        dtype="float32",
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in model.language_model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.language_model.eval()
    return model
