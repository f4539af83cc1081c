"""Check and load a diffusers pipeline folder; nothing pickled, remote or half-loaded passes.

Each network is loaded on its own, because only that way do the libraries say which weights were
missing; the pipeline is then put together around the loaded networks.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from llmbind_cli.errors import (
    ConfigurationError,
    IntegrityError,
    ModelNotFoundError,
    PolicyError,
    UnavailableError,
)
from llmbind_cli.weights.hashes import check_safetensors, sha256_file
from llmbind_cli.weights.layout import select_weights

INDEX = "model_index.json"
SAMPLING = "sampling.json"
_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_CONTENT = (".json", ".safetensors", ".txt", ".model")
_SHARED_LIBRARIES = ("diffusers", "transformers")
# Their authors run these in float32 beside 16-bit networks, since they overflow or blur in less.
_FLOAT32_CLASSES = ("AutoencoderKLWan",)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' bars and warnings off stderr while a pipeline loads or works.

    What they warn about is either refused here with an error or concerns their developers.
    diffusers stays quiet afterwards: what it says about a single picture is that picture's error.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def read_index(folder: Path) -> dict[str, Any]:
    """Return the parsed ``model_index.json`` of a pipeline folder.

    Raises:
        ModelNotFoundError: The folder or its index does not exist.
        IntegrityError: The index is not the JSON that names a pipeline class.
        PolicyError: The index names code that the folder brings along.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ModelNotFoundError(
            f"{folder}: not a diffusers pipeline folder: it has no {INDEX}; name a folder that "
            f"`save_pretrained` of a pipeline wrote"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise IntegrityError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(index, dict) or "_class_name" not in index:
        raise IntegrityError(f"{path}: names no pipeline class (_class_name)")
    if not isinstance(index["_class_name"], str):
        raise PolicyError(
            f"{path}: the pipeline needs code from its own repository, which llmbind does not run"
        )
    return index


def read_sampling(folder: Path) -> dict[str, int | float]:
    """Return the sampling settings that travel with the pipeline, from ``sampling.json``.

    A pipeline that was trained for few steps or weak guidance says so there; diffusers has no
    place for it. The file is optional.

    Returns:
        ``num_inference_steps`` (a whole number ≥ 1), ``guidance_scale`` (≥ 0) and ``fps`` (a whole
        number ≥ 1, for clips), where given.

    Raises:
        ConfigurationError: The file has another key, or a value out of range.
    """
    path = folder / SAMPLING
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{path}: cannot be read as JSON ({error})") from error
    rules: dict[str, tuple[type | tuple[type, ...], float, str]] = {
        "num_inference_steps": (int, 1, "a whole number ≥ 1"),
        "guidance_scale": ((int, float), 0, "a number ≥ 0"),
        "fps": (int, 1, "a whole number ≥ 1"),
    }
    if not isinstance(settings, dict) or set(settings) - set(rules):
        raise ConfigurationError(f"{path}: holds an object with {', '.join(rules)}, no more")
    for key, value in settings.items():
        kind, least, rule = rules[key]
        whole = isinstance(value, kind) and not isinstance(value, bool)
        if not whole or not least <= value < math.inf:
            raise ConfigurationError(f"{path}: {key} must be {rule}, got {value!r}")
    return settings


def component_classes(folder: Path, index: dict[str, Any]) -> dict[str, type]:
    """Return component name → class for every component that the index fills.

    Raises:
        PolicyError: A component needs code from the repository itself.
        UnavailableError: A component's library or class is not in what is installed.
    """
    from diffusers import pipelines

    classes: dict[str, type] = {}
    for name, entry in index.items():
        if name.startswith("_") or not (isinstance(entry, list) and len(entry) == 2):
            continue
        library, class_name = entry
        if class_name is None:
            continue
        if (folder / name / f"{library}.py").exists():
            raise PolicyError(
                f"{folder}/{name}: needs code from its own repository ({library}.py), which "
                f"llmbind does not run"
            )
        shared = library in _SHARED_LIBRARIES
        module = importlib.import_module(library) if shared else getattr(pipelines, library, None)
        found = getattr(module, str(class_name), None)
        if not isinstance(found, type):
            raise UnavailableError(
                f"{folder / INDEX}: component {name} is a {library}.{class_name}, which the "
                f"installed diffusers and transformers do not have"
            )
        classes[name] = found
    return classes


def pipeline_class(folder: Path, index: dict[str, Any]) -> type:
    """Return the pipeline class that the index names.

    Raises:
        UnavailableError: The installed diffusers has no such class.
    """
    import diffusers

    found = getattr(diffusers, index["_class_name"], None)
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        raise UnavailableError(
            f"{folder / INDEX}: the installed diffusers {diffusers.__version__} has no pipeline "
            f"{index['_class_name']!r}"
        )
    return found


def check_weight_files(folder: Path, names: list[str]) -> None:
    """Refuse components with pickled weights only, and truncated safetensors.

    Args:
        folder: The pipeline folder.
        names: Component names, each a sub-folder.

    Raises:
        IntegrityError: With the file's name and what to do.
    """
    for name in names:
        safe = sorted((folder / name).glob("*.safetensors"))
        pickled = sorted(p for p in (folder / name).glob("*") if p.suffix in _PICKLED)
        if pickled and not safe:
            raise IntegrityError(
                f"{pickled[0]}: pickled weights are not loaded, since reading them can run code; "
                f"convert the pipeline once where you trust it: "
                f"pipeline.save_pretrained(FOLDER, safe_serialization=True)"
            )
        for path in safe:
            check_safetensors(path)


def load_components(folder: Path, classes: dict[str, type], dtype: torch.dtype) -> dict[str, Any]:
    """Load every network of the folder, and refuse any that is not exactly what was saved.

    Args:
        folder: The pipeline folder.
        classes: From :func:`component_classes`.
        dtype: Of the loaded parameters.

    Returns:
        Component name → network in evaluation mode.

    Raises:
        IntegrityError: Weights are missing, unexpected, of another shape or not finite.
    """
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    networks: dict[str, Any] = {}
    for name, found in classes.items():
        own = torch.float32 if found.__name__ in _FLOAT32_CLASSES else dtype
        if issubclass(found, ModelMixin):
            keywords: dict[str, Any] = {"torch_dtype": own}
        elif issubclass(found, PreTrainedModel):
            keywords = {"dtype": own}
        else:
            continue
        where = folder / name
        loader: Any = found
        try:
            network, report = loader.from_pretrained(
                where,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **keywords,
            )
        except torch.OutOfMemoryError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise IntegrityError(f"{where}: cannot be loaded: {_first_line(error)}") from error
        _refuse_incomplete(where, network, report)
        networks[name] = network.eval()
    return networks


def _refuse_incomplete(where: Path, network: torch.nn.Module, report: dict[str, Any]) -> None:
    for kind in ("missing", "unexpected", "mismatched"):
        # Older releases of transformers saved the constant position ids among the weights.
        keys = sorted(
            key if isinstance(key, str) else str(key[0])
            for key in report.get(f"{kind}_keys") or ()
            if not (isinstance(key, str) and key.endswith("position_ids"))
        )
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise IntegrityError(
                f"{where}: {kind} weights: {', '.join(keys[:3])}{more}; the files do not belong "
                f"to this configuration, and nothing is filled in at random"
            )
    for key, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise IntegrityError(f"{where}: weight {key} holds NaN or infinite values")


def assemble(found: Any, folder: Path, networks: dict[str, Any]) -> Any:
    """Build the pipeline around loaded networks; tokenizers and scheduler come from the folder.

    Args:
        found: The pipeline class.
        folder: The pipeline folder.
        networks: From :func:`load_components`.

    Raises:
        IntegrityError: A tokenizer, scheduler or processor cannot be read.
        UnavailableError: One of them needs a package that is not installed.
    """
    try:
        return found.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **networks
        )
    except ImportError as error:
        raise UnavailableError(
            f"{folder}: a part of the pipeline needs a package that is not installed "
            f"({_first_line(error)}); pip install 'llmbind[media]' brings those that published "
            f"pipelines need"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder}: cannot be loaded: {_first_line(error)}") from error


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Return how much memory the folder's parameters will take, read from the files' headers.

    Args:
        folder: The pipeline folder.
        dtype: Of the loaded parameters.
    """
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")]
    numbers = 0
    for name in select_weights([INDEX, *names]):
        with safe_open(folder / name, framework="pt") as file:
            numbers += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return numbers * dtype.itemsize


def fingerprint(folder: Path) -> str:
    """Return a sha256 over every configuration, vocabulary and weight file of the folder.

    Args:
        folder: The pipeline folder; it is read in full.

    Returns:
        64 hexadecimal digits that do not depend on where the folder lies.
    """
    digest = hashlib.sha256()
    for path in _content_files(folder):
        line = f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _content_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix in _CONTENT:
            yield path


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
