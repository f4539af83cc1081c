"""The base's architecture without its weights: from a recipe or a folder, built on no device.

A model on PyTorch's meta device has shapes and no memory, so that a 7-billion-parameter model is
counted in seconds on any machine.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmbind_cli.errors import ConfigurationError, IntegrityError
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, inject_lora_moe
from llmbind_cli.model.token_rows import INPUT_ROWS, OUTPUT_ROWS, attach_token_rows
from llmbind_cli.tokens import TaskToken, TokenTable


def config_of_recipe(architecture: Mapping[str, Any]) -> Any:
    """Build the transformers configuration that ``[model.architecture]`` describes.

    Args:
        architecture: ``model_type`` and fields of that type's configuration.

    Raises:
        ConfigurationError: The type or a field is unknown, or a value does not fit.
    """
    from transformers import CONFIG_MAPPING

    fields = dict(architecture)
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigurationError(
            f"model.architecture.model_type must be a model type of transformers, got "
            f"{model_type!r}{hint}"
        )
    config_class = CONFIG_MAPPING[model_type]
    known = config_class().to_dict().keys()
    if unknown := sorted(fields.keys() - known):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigurationError(
            f"unknown key model.architecture.{unknown[0]} for model type {model_type}{hint}"
        )
    try:
        return config_class(**fields)
    except Exception as error:  # each configuration class has errors of its own
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"model.architecture: {reason}") from error


def config_of_folder(directory: Path) -> Any:
    """Read the configuration of a base in transformers layout.

    Raises:
        IntegrityError: There is none that transformers reads.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{directory}: the configuration does not load: {error}") from error
    return config.text_config if config.model_type == "llava" else config


def check_architecture(architecture: Mapping[str, Any] | None, config: Any) -> None:
    """Compare what a recipe says about its base with the base itself.

    Args:
        architecture: ``[model.architecture]``; ``None`` says nothing.
        config: The base's own configuration.

    Raises:
        ConfigurationError: A field that the recipe names has another value in the base.
    """
    if architecture is None:
        return
    said, found = config_of_recipe(architecture).to_dict(), config.to_dict()
    differing = [
        f"{key} is {said[key]!r} in the recipe and {found.get(key)!r} in the base"
        for key in sorted(architecture)
        if said[key] != found.get(key)
    ]
    if differing:
        raise ConfigurationError(
            f"model.architecture does not describe the base: {'; '.join(differing)}"
        )


def model_without_weights(
    config: Any, *, dtype: torch.dtype, adapter: LoraMoeConfig, tokens: tuple[TaskToken, ...]
) -> nn.Module:
    """Build a language model with LoRA-MoE and token rows on the meta device.

    Args:
        config: The base's configuration.
        dtype: Dtype of the frozen weights.
        adapter: LoRA-MoE configuration.
        tokens: The task tokens; their ids follow those of the base's vocabulary.

    Raises:
        ConfigurationError: The configuration is of no causal language model, or ``adapter``
            selects nothing in it.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except ValueError as error:
        raise ConfigurationError(
            f"model type {config.model_type} is no causal language model of transformers"
        ) from error
    inject_lora_moe(model, adapter)
    inputs = model.get_input_embeddings().weight
    # Meta tensors share no memory to compare; tied matrices are one parameter.
    is_tied = model.get_output_embeddings().weight is inputs
    spellings = [spelling for token in tokens for spelling in token.spellings]
    rows = torch.empty(len(spellings), inputs.shape[1], device="meta")
    ids = {spelling: inputs.shape[0] + number for number, spelling in enumerate(spellings)}
    attach_token_rows(
        model,
        TokenTable(tokens=tokens, ids=ids),
        {INPUT_ROWS: rows} if is_tied else {INPUT_ROWS: rows, OUTPUT_ROWS: rows.clone()},
    )
    result: nn.Module = model
    return result
