"""Loads a frozen transformers model from a folder, and refuses one that does not fit.

transformers itself fills missing weights with random numbers and goes on; an extractor must not.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch

from llmbind_cli.errors import IntegrityError, ModelNotFoundError
from llmbind_cli.metrics.extractors.published import LocatedWeights


def load_network(model_class: Any, weights: LocatedWeights, *, device: torch.device) -> Any:
    """Load a model for inference, in float32.

    Args:
        model_class: Of transformers, such as ``CLIPModel``.
        weights: A folder in transformers' layout.
        device: Where it runs.

    Raises:
        IntegrityError: There is no configuration, or it is another network's; weights are missing,
            of another shape or not finite.
    """
    folder = weights.folder
    if not (folder / "config.json").is_file():
        raise IntegrityError(
            f"{weights.source}: lacks config.json; {weights.name} needs a folder in the layout of "
            f"transformers' {model_class.__name__}"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            network, report = model_class.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrityError(f"{weights.source}: cannot be loaded: {reason}") from error
    faults = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    faults += [f"{entry} has another shape" for entry in map(str, report["mismatched_keys"])]
    faults += [
        f"{n} is not finite" for n, p in network.named_parameters() if not p.isfinite().all()
    ]
    if faults:
        raise IntegrityError(f"{weights.source}: {'; '.join(faults[:10])}")
    return network.to(device).eval()


def load_tokenizer(weights: LocatedWeights, folder: Path) -> Any:
    """Load the tokenizer of a network.

    Args:
        weights: Of the network, for messages.
        folder: Holds the tokenizer: that of the weights, or one of its own.

    Raises:
        ModelNotFoundError: There is no such folder; the message says what belongs into it.
        IntegrityError: It holds no tokenizer. transformers would give an empty one.
    """
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{weights.source}: such a checkpoint holds no tokenizer, which words need: put "
            "config.json, tokenizer_config.json, vocab.json, merges.txt and tokenizer.json of "
            f"https://huggingface.co/FacebookAI/roberta-base into {folder}"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrityError(f"{weights.source}: has no tokenizer: {reason}") from error
    if len(tokenizer) < _LEAST_TOKENS:
        raise IntegrityError(f"{weights.source}: its tokenizer has {len(tokenizer)} tokens")
    return tokenizer


_LEAST_TOKENS = 16
"""Where files are missing, transformers makes a tokenizer of two to five special tokens."""
