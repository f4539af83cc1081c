"""The frozen base: a transformers causal LM and its tokenizer from a local directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmbind_cli.errors import IntegrityError, UnavailableError
from llmbind_cli.model.pretrained import load_pretrained
from llmbind_cli.nn.device import choose_dtype

_WITHIN_LLAVA = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}


def load_language_model(directory: Path, *, device: torch.device, dtype: str) -> Any:
    """Load a causal LM from a local transformers directory.

    Of a LLaVA (``llava-hf``) the language half is taken; its tower and projector are read where a
    bundle's sight names the same source.

    Args:
        directory: ``config.json`` and safetensors weights.
        device: Where the weights go.
        dtype: One of :data:`llmbind_cli.nn.device.DTYPES`; ``int8`` and ``int4`` need CUDA and
            bitsandbytes.

    Raises:
        IntegrityError: The weights are missing, incomplete or do not fit the configuration;
            nothing is initialised at random (fault 32).
        UnavailableError: Quantised loading without CUDA or bitsandbytes.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": choose_dtype(dtype, device)}
    if dtype in ("int8", "int4"):
        options |= _quantized(dtype, device)
    model = load_pretrained(
        AutoModelForCausalLM,
        directory,
        what="the language model",
        part_of=_language_half,
        **options,
    )
    return model.to(device) if "quantization_config" not in options else model


def _language_half(config: Any) -> dict[str, Any]:
    if config.model_type != "llava":
        return {}
    return {"config": config.text_config, "key_mapping": _WITHIN_LLAVA}


def _quantized(dtype: str, device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        raise UnavailableError(f"--dtype {dtype} needs a CUDA device")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"--dtype {dtype} needs bitsandbytes: pip install 'llmbind[quantized]'"
        ) from error
    from transformers import BitsAndBytesConfig

    compute = choose_dtype("auto", device)
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if dtype == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    )
    return {"quantization_config": config, "device_map": {"": device}}


def load_tokenizer(directory: Path) -> Any:
    """Load the tokenizer of a local directory.

    Raises:
        IntegrityError: There is none, or it came out empty (some tokenizer classes of
            transformers return an empty vocabulary instead of failing).
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{directory}: the tokenizer does not load: {error}") from error
    if len(tokenizer) < 100:
        raise IntegrityError(f"{directory}: the tokenizer has only {len(tokenizer)} entries")
    return tokenizer
