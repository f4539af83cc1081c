"""Other weight formats → safetensors, once, into a staging directory of the cache.

GGUF: the weights are unpacked block by block and stored as bfloat16, in transformers layout with
configuration and tokenizer. Rounding to bfloat16 moves a weight by at most 2⁻⁹ of itself (0.2 %),
a small part of what the 4-bit blocks had already lost, and halves the file against float32.

Pickled weights: only plain tensors are read (`weights_only=True`), and they keep their dtype.
"""

from __future__ import annotations

import importlib
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbind_cli.errors import IntegrityError, StorageError, UnavailableError
from llmbind_cli.weights.atomic import storage_error

if TYPE_CHECKING:
    from torch import Tensor

CONVERTER_VERSION = 1
"""Raised when the same input gives another output, so that cached conversions are made anew."""

MODEL_FILE = "model.safetensors"

# GGUF names the rule by which text is split before byte-pair merging. These put every digit on its
# own first; transformers' reader leaves that step out and so merges "\n\n1" differently.
_DIGIT_SPLITTING = frozenset({"smollm", "starcoder", "refact", "command-r"})


def convert_gguf(gguf_file: Path, directory: Path) -> None:
    """Writes a GGUF language model as a directory for `from_pretrained`.

    Args:
        gguf_file: The model; its metadata hold configuration, vocabulary and chat template.
        directory: An existing empty directory, which gets `config.json`,
            `generation_config.json`, `model.safetensors` (bfloat16) and the tokenizer.

    Raises:
        IntegrityError: The file is damaged, is of no known architecture, leaves weights of the
            model unset, or its tokenizer does not fit.
        UnavailableError: A package that reading GGUF needs is missing.
        StorageError: The disk is full or failing.
    """
    try:
        import accelerate  # noqa: F401  transformers' GGUF loader needs both
        import gguf  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise UnavailableError(
            f"reading {gguf_file.name} needs the package {error.name}: pip install gguf accelerate"
        ) from error

    location = {"gguf_file": gguf_file.name, "local_files_only": True}
    with _reading(gguf_file, "GGUF"):
        model, report = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
            **location,
        )
        unset = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
        if unset:
            raise IntegrityError(f"{gguf_file}: lacks weights of the model: {', '.join(unset[:5])}")
        tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **location)
        vocabulary, splitting = _gguf_tokenizer_facts(gguf_file)
    if not vocabulary or len(tokenizer) != vocabulary or vocabulary > model.config.vocab_size:
        raise IntegrityError(
            f"{gguf_file}: the tokenizer has {len(tokenizer)} tokens, the file lists {vocabulary},"
            f" the model has {model.config.vocab_size} rows"
        )
    if splitting in _DIGIT_SPLITTING:
        _split_digits(tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings

    vars(model.config).pop("quantization_config", None)  # the saved weights are plain ones
    for leftover in ("local_files_only", "is_local"):  # of this call, not of the tokenizer
        tokenizer.init_kwargs.pop(leftover, None)
    # Where DeepSpeed is installed it is imported here, and says so on stdout.
    with _writing(directory), redirect_stdout(sys.stderr):
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def convert_pickle(pickle_file: Path, directory: Path) -> None:
    """Writes pickled weights as `model.safetensors`, without running code from the file.

    Args:
        pickle_file: A file of `torch.save` that holds a dictionary of tensors, or one under the
            key `state_dict` or `model`, as training programs write it beside their optimizer's and
            sampler's state. Its hash has been checked.
        directory: An existing directory, which gets `model.safetensors`.

    Raises:
        IntegrityError: The file is damaged or holds more than tensors.
        StorageError: The disk is full or failing.
    """
    import torch
    from safetensors.torch import save_file

    with (
        _reading(pickle_file, "pickled weights"),
        warnings.catch_warnings(),
        torch.serialization.safe_globals(_numpy_constructors()),
    ):
        warnings.simplefilter("ignore")  # torch's remarks on old file formats
        content = torch.load(pickle_file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise IntegrityError(f"{pickle_file}: holds no dictionary of tensors")
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise IntegrityError(f"{pickle_file}: {name} is {type(tensor).__name__}, not a tensor")
        # safetensors refuses tensors that share memory, as tied weights in a pickle do.
        tensors[str(name)] = tensor.detach().clone().contiguous()
    with _writing(directory):
        save_file(tensors, directory / MODEL_FILE, metadata={"format": "pt"})


def _numpy_constructors() -> list[Any]:
    """What rebuilds numpy's numbers and arrays, which stand beside the weights of a training run.

    None of them runs code of the file; the objects are dropped with what is not the weights.
    """
    import codecs

    import numpy as np
    from numpy.dtypes import Float32DType, Float64DType, Int32DType, Int64DType

    multiarray = importlib.import_module("numpy._core.multiarray")
    functions = {name: getattr(multiarray, name) for name in ("scalar", "_reconstruct")}
    # Files tell the names of their time: numpy before 2.0 had no underscore before "core".
    named = [
        (function, f"numpy.{core}.multiarray.{name}")
        for name, function in functions.items()
        for core in ("core", "_core")
    ]
    kinds = [np.ndarray, np.dtype, Float32DType, Float64DType, Int32DType, Int64DType]
    return [*named, *kinds, (codecs.encode, "_codecs.encode")]


def _gguf_tokenizer_facts(gguf_file: Path) -> tuple[int, str]:
    """Returns the number of tokens and the name of the text-splitting rule."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf_file).fields
    tokens, splitting = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.pre")
    return len(tokens.data) if tokens else 0, str(splitting.contents()) if splitting else ""


def _split_digits(tokenizer: Any) -> None:
    from tokenizers.pre_tokenizers import Digits, Sequence

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Reports whatever a parser raises on a damaged file as a failed integrity check."""
    from pickle import UnpicklingError

    try:
        yield
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RuntimeError,
        EOFError,
        OSError,
        UnpicklingError,
        struct.error,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrityError(f"{path}: cannot be read as {kind}: {reason}") from error


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Names a full disk, and gives the weight files the permissions of their directory.

    safetensors reports the operating system's errors as its own, and creates its files for the
    owner alone, which would lock others out of a shared cache.
    """
    from safetensors import SafetensorError

    try:
        yield
        for weights in directory.glob("*.safetensors"):
            weights.chmod(directory.stat().st_mode & 0o666)
    except SafetensorError as error:
        raise StorageError(f"{directory}: {error}; free some space and run again") from error
    except OSError as error:
        raise storage_error(directory, error) from error
