"""A fresh binding model for training: base, new token rows, LoRA-MoE."""

from __future__ import annotations

import dataclasses

import torch

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import VICUNA_TEMPLATE
from llmbind_cli.model.config import BaseModel, BundleConfig, SightConfig
from llmbind_cli.model.language_model import (
    load_language_model,
    load_tokenizer,
)
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, inject_lora_moe
from llmbind_cli.model.token_rows import (
    INPUT_ROWS,
    OUTPUT_ROWS,
    attach_token_rows,
    initial_rows,
    is_tied,
)
from llmbind_cli.model.vision.loading import load_sight
from llmbind_cli.nn.device import choose_device, choose_dtype
from llmbind_cli.tokens import register_task_tokens, tasks_named
from llmbind_cli.weights import cache


def build_model(
    *,
    name: str,
    base: str,
    base_sha256: str | None,
    tasks: list[str],
    adapter: LoraMoeConfig,
    licences: dict[str, str],
    sight: SightConfig | None = None,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    offline: bool = False,
) -> BoundModel:
    """Build a model whose adapters and token rows train while the base stays frozen.

    Args:
        name: Name of the bundle to be.
        base: Source of the base LLM.
        base_sha256: Hash that it must have; ``None`` takes and records the one it has.
        tasks: Task names the bundle will serve.
        adapter: LoRA-MoE configuration.
        licences: Part → licence, for the bundle's configuration.
        sight: What the bundle is to see with; the hashes of its networks are recorded.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: Dtype of the frozen weights.
        seed: Seed of every random initial value.
        offline: Never use the network.
    """
    chosen = choose_device(device)
    directory = cache.resolve(base, sha256=base_sha256, offline=offline)
    tokenizer = load_tokenizer(directory)
    tokenizer.chat_template = tokenizer.chat_template or VICUNA_TEMPLATE
    table = register_task_tokens(tokenizer, tasks_named(tasks))
    language_model = load_language_model(directory, device=chosen, dtype=dtype)
    matrices = {INPUT_ROWS: language_model.get_input_embeddings().weight}
    vocab_size, hidden_size = matrices[INPUT_ROWS].shape
    if not is_tied(language_model):
        matrices[OUTPUT_ROWS] = language_model.get_output_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    rows = {
        part: initial_rows(matrix.detach(), tokenizer, table, generator=generator)
        for part, matrix in matrices.items()
    }
    seeing = None
    if sight is not None:
        seeing = load_sight(
            sight,
            bundle=None,
            hidden_size=hidden_size,
            tasks=tasks,
            device=chosen,
            dtype=choose_dtype(dtype, chosen),
            offline=offline,
            seed=seed,
            embedding_rms=float(matrices[INPUT_ROWS].detach().float().square().mean().sqrt()),
        )
        sight = _pinned(sight)
    torch.manual_seed(seed)
    pin = base_sha256 or cache.digest_of(base)
    inject_lora_moe(language_model, dataclasses.replace(adapter, base_model_sha256=pin))
    attach_token_rows(language_model, table, rows)
    config = BundleConfig(
        name=name,
        language_model=BaseModel(
            source=base, sha256=pin, vocab_size=vocab_size, hidden_size=hidden_size
        ),
        tokens=table.tokens,
        token_ids=table.ids,
        licences=licences,
        sight=sight,
    )
    return BoundModel(
        config=config,
        tokenizer=tokenizer,
        language_model=language_model,
        token_table=table,
        fingerprint="unsaved",
        sight=seeing,
    )


def _pinned(sight: SightConfig) -> SightConfig:
    """Return the configuration with the hash of each network, as it was just loaded."""
    pinned = {
        name: dataclasses.replace(entry, sha256=entry.sha256 or cache.digest_of(entry.source))
        for name in ("vision_tower", "grounding_encoder")
        if (entry := getattr(sight, name)) is not None
    }
    return dataclasses.replace(sight, **pinned)
