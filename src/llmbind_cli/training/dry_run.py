"""``llmbind train --dry-run``: what a recipe would train, on what, and what it would take.

The model is built on no device and no weights are read, so the report of a 7-billion-parameter
recipe takes seconds on any machine.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, ModelNotFoundError
from llmbind_cli.model.architecture import (
    check_architecture,
    config_of_folder,
    config_of_recipe,
    model_without_weights,
)
from llmbind_cli.model.chat_format import VICUNA_TEMPLATE
from llmbind_cli.model.language_model import load_tokenizer
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, adapter_config_of
from llmbind_cli.model.vision.without_weights import sight_without_weights
from llmbind_cli.nn.device import choose_dtype
from llmbind_cli.nn.lora_moe import LoraMoeLinear
from llmbind_cli.recipes.schema import Recipe
from llmbind_cli.recipes.sight_schema import NetworkSection, SightSection
from llmbind_cli.tokens import register_task_tokens, tasks_named
from llmbind_cli.training.dry_run_text import report_text
from llmbind_cli.training.memory import (
    GIB,
    BlockShape,
    activation_memory,
    model_memory,
    training_flops,
)
from llmbind_cli.training.objective import ROWS
from llmbind_cli.training.optim import total_steps
from llmbind_cli.training.parameters import ParameterCounts, count_parameters, count_sight
from llmbind_cli.training.recipe_model import sight_config
from llmbind_cli.training.sample_pictures import write_samples
from llmbind_cli.training.start import find_start
from llmbind_cli.training.survey import DataSurvey, survey_data
from llmbind_cli.weights import cache

DEVICES = (1, 8)
ASSUMED_TFLOPS = 312
ASSUMED_UTILISATION = 0.4
SAMPLES_NAME = "dry-run"
FEED_FORWARD = {"gate_proj", "up_proj", "down_proj"}


def dry_run(
    recipe: Recipe,
    *,
    adapter: LoraMoeConfig,
    device: str = "auto",
    offline: bool = False,
    directory: Path | None = None,
) -> None:
    """Write the report to stdout: for a reader, or one JSON object with ``--json``.

    The base's configuration and tokenizer come from the cache, else from
    ``[model.architecture]``; only a recipe without that fetches the base.

    Args:
        recipe: The checked recipe.
        adapter: Its LoRA-MoE configuration.
        device: ``auto``, ``cpu`` or ``cuda``: what memory is counted for, present or not.
        offline: Never use the network.
        directory: Folder for ``dry-run/``, into which the first samples with pictures are written;
            that of the recipe if not given. Nothing is written where no source has pictures.

    Raises:
        InputDataError: Data are missing or malformed, or training has pictures of evaluation; the
            report was written before.
        ConfigurationError: The architecture is wrong or is not that of the base.
        ModelNotFoundError: The base is neither cached nor described.
    """
    config, folder = _base(recipe, offline=offline)
    tokens = tasks_named(recipe.tokens.tasks)
    kind = _planned_device(recipe, device)
    dtype = _planned_dtype(recipe, kind)
    model = model_without_weights(config, dtype=dtype, adapter=adapter, tokens=tokens)
    counts = count_parameters(model)
    if recipe.sight is not None:
        counts = ParameterCounts(
            parts=counts.parts | _sight(recipe, recipe.sight, config, offline=offline).parts
        )
    tokenizer, table, start = None, None, None
    if folder is not None:
        tokenizer = load_tokenizer(folder)
        tokenizer.chat_template = tokenizer.chat_template or VICUNA_TEMPLATE
        table = register_task_tokens(tokenizer, tokens)
        if recipe.model.start is not None:
            start = find_start(
                recipe.model.start,
                base=recipe.model.base_sha256,
                token_ids=table.ids,
                adapter=adapter_config_of(model),
                offline=offline,
            ).name
    survey = survey_data(recipe, tokens, tokenizer=tokenizer, table=table)
    shape = _block_shape(config, model, adapter)
    is_known = recipe.train.steps is not None or not survey.problems
    steps = {
        devices: total_steps(recipe.train, survey.epoch, processes=devices)
        for devices in (DEVICES if is_known else ())
    }
    problems = list(survey.problems)
    pictures = _pictures(survey, (directory or recipe.output.dir) / SAMPLES_NAME, problems)
    report = {
        "base": {
            "source": recipe.model.base,
            "counted_from": "recipe" if folder is None else "cache",
            "start": start or recipe.model.start,
        },
        "parameters": _parameters(counts),
        "data": _data(survey),
        "schedule": _schedule(recipe, survey, steps),
        "memory": _memory(recipe, counts, shape, kind=kind, dtype=dtype),
        "compute": _compute(recipe, counts, shape, config=config, survey=survey, steps=steps),
        "samples": [asdict(example) for example in survey.examples],
        "sample_pictures": pictures,
        "problems": problems,
    }
    console.result(json.dumps(report, ensure_ascii=False) if console.json else report_text(report))
    if problems:
        raise InputDataError("; ".join(problems))


def _pictures(survey: DataSurvey, folder: Path, problems: list[str]) -> list[str]:
    """Write the first samples to look at and return their files; what fails is a problem."""
    written: list[str] = []
    for name, group in itertools.groupby(survey.samples, key=lambda entry: entry[0]):
        try:
            written += [str(path) for path in write_samples(folder, list(group))]
        except InputDataError as error:
            problems.append(f"{name}: {error}")
    return written


def _base(recipe: Recipe, *, offline: bool) -> tuple[Any, Path | None]:
    """Return the base's configuration, and its folder where it is at hand."""
    source, pin = recipe.model.base, recipe.model.base_sha256
    try:
        folder = cache.resolve(source, sha256=pin, offline=True)
    except ModelNotFoundError:
        if recipe.model.architecture is not None:
            return config_of_recipe(recipe.model.architecture), None
        if offline:
            raise
        folder = cache.resolve(source, sha256=pin)
    config = config_of_folder(folder)
    check_architecture(recipe.model.architecture, config)
    return config, folder


def _sight(recipe: Recipe, section: SightSection, config: Any, *, offline: bool) -> ParameterCounts:
    """Count the recipe's sight, from its networks' own configurations or from what it says."""
    described: dict[str, Mapping[str, Any] | Path] = {}
    for name in ("vision_tower", "grounding_encoder"):
        entry: NetworkSection | None = getattr(section, name)
        if entry is None or entry.family == "efficientnet-lite0":
            continue
        try:
            described[name] = cache.resolve(entry.source, sha256=entry.sha256, offline=True)
        except ModelNotFoundError:
            if entry.architecture is None:
                described[name] = cache.resolve(entry.source, sha256=entry.sha256, offline=offline)
            else:
                described[name] = entry.architecture
    sight = sight_without_weights(
        sight_config(section),
        architectures=described,
        hidden_size=config.hidden_size,
        tasks=recipe.tokens.tasks,
    )
    return count_sight(sight)


def _planned_device(recipe: Recipe, device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() or recipe.engine.kind == "deepspeed" else "cpu"


def _planned_dtype(recipe: Recipe, kind: str) -> torch.dtype:
    if recipe.model.dtype == "auto" and kind == "cuda":
        return torch.bfloat16
    return choose_dtype(recipe.model.dtype, torch.device("cpu"))


def _block_shape(config: Any, model: nn.Module, adapter: LoraMoeConfig) -> BlockShape | None:
    """Return what activations follow from; ``None`` for blocks that memory.py does not count."""
    adapted = {
        name.rpartition(".")[0].rpartition(".")[0]
        for name, module in model.named_modules()
        if isinstance(module, LoraMoeLinear)
    }
    try:
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        shape = BlockShape(
            hidden=config.hidden_size,
            feed_forward=config.intermediate_size,
            attention=heads * head_width,
            heads=heads,
            layers=config.num_hidden_layers,
            adapted_layers=len(adapted),
            adapter_width=adapter.num_experts * (adapter.r + 1),
            vocabulary=config.vocab_size,
        )
    except AttributeError:
        return None
    is_counted = FEED_FORWARD.issuperset(adapter.target_modules) and hasattr(config, "rms_norm_eps")
    return shape if is_counted else None


def _parameters(counts: ParameterCounts) -> dict[str, Any]:
    return {
        "parts": {name: asdict(part) for name, part in counts.parts.items()},
        "total": counts.total,
        "trainable": counts.trainable,
        "adapters": counts.adapters,
        "adapters_of_base": counts.adapters / counts.parts["base"].total,
    }


def _data(survey: DataSurvey) -> dict[str, Any]:
    return {
        "sources": [asdict(source) for source in survey.sources],
        "lengths": survey.lengths,
        "calls": survey.calls,
        "epoch": survey.epoch,
        "tokens_mean": survey.tokens_mean,
        "evaluation": [asdict(source) for source in survey.evaluation],
        "overlap": survey.overlap,
        "shared_pictures": [asdict(one) for one in survey.shared],
    }


def _schedule(recipe: Recipe, survey: DataSurvey, steps: Mapping[int, int]) -> dict[str, Any]:
    train = recipe.train
    per_step = train.batch_size * train.accumulation
    return {
        "steps": {str(devices): count for devices, count in steps.items()},
        "batch_size": train.batch_size,
        "accumulation": train.accumulation,
        "dialogues_per_step": {str(devices): per_step * devices for devices in DEVICES},
        "epochs": {
            str(devices): count * per_step * devices / survey.epoch
            for devices, count in steps.items()
            if survey.epoch
        },
    }


def _memory(
    recipe: Recipe,
    counts: ParameterCounts,
    shape: BlockShape | None,
    *,
    kind: str,
    dtype: torch.dtype,
) -> dict[str, Any]:
    train, element = recipe.train, dtype.itemsize
    rows = []
    for stage in range(4):
        for devices in DEVICES:
            memory = model_memory(
                frozen=counts.frozen,
                trainable=counts.trainable,
                frozen_bytes=element,
                zero_stage=stage,
                devices=devices,
                offload_optimizer=recipe.engine.offload_optimizer,
            )
            parts = {f"{name}_gib": size / GIB for name, size in asdict(memory).items()}
            total = {"total_gib": memory.total / GIB}
            rows.append({"zero_stage": stage, "devices": devices} | parts | total)
    activations = None
    if shape is not None:
        activations = {}
        for name, checkpointing in (("without", False), ("with", True)):
            kept = activation_memory(
                shape,
                batch=train.batch_size,
                tokens=train.max_tokens,
                element=element,
                fused=kind == "cuda",
                checkpointing=checkpointing,
                logit_rows=ROWS,
            )
            parts = {f"{part}_gib": size / GIB for part, size in asdict(kept).items()}
            activations[f"{name}_checkpointing"] = parts | {"total_gib": kept.total / GIB}
    return {
        "device": kind,
        "dtype": str(dtype).removeprefix("torch."),
        "batch_size": train.batch_size,
        "tokens": train.max_tokens,
        "zero_stage": recipe.engine.zero_stage,
        "gradient_checkpointing": train.gradient_checkpointing,
        "model": rows,
        "activations": activations,
    }


def _compute(
    recipe: Recipe,
    counts: ParameterCounts,
    shape: BlockShape | None,
    *,
    config: Any,
    survey: DataSurvey,
    steps: Mapping[int, int],
) -> dict[str, Any] | None:
    if shape is None or not survey.epoch:
        return None
    is_tied = getattr(config, "tie_word_embeddings", False)
    embedding = 0 if is_tied else config.vocab_size * config.hidden_size
    flops = training_flops(
        shape,
        base=counts.parts["base"].total - embedding,
        adapters=counts.trainable,
        tokens=survey.tokens_mean,
        checkpointing=recipe.train.gradient_checkpointing,
    )
    per_step = recipe.train.batch_size * recipe.train.accumulation * survey.tokens_mean
    seconds = flops * per_step / (ASSUMED_TFLOPS * 1e12 * ASSUMED_UTILISATION)
    return {
        "flops_per_token": flops,
        "tokens_per_step": per_step,
        "assumed_tflops": ASSUMED_TFLOPS,
        "assumed_utilisation": ASSUMED_UTILISATION,
        "seconds_per_step": seconds,
        "hours": {str(devices): seconds * count / 3600 for devices, count in steps.items()},
    }
