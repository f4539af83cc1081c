"""Which files make a model directory, and which directories are refused.

Two layouts are read: transformers (everything in one folder) and diffusers (`model_index.json`, one
sub-folder a component). In a folder the weights are `model.safetensors` and its like, or their
shards; copies in other formats or precisions beside them are left alone.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from llmbind_cli.errors import IntegrityError, ModelNotFoundError, PolicyError
from llmbind_cli.weights.hashes import check_safetensors

PIPELINE_INDEX = "model_index.json"
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_COMPANION_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
_WHOLE = re.compile(r"(model|diffusion_pytorch_model|adapter_model)\.safetensors")
_SHARD = re.compile(r"(model|diffusion_pytorch_model)-\d+-of-\d+\.safetensors")
_PICKLE = re.compile(r"(pytorch_model|diffusion_pytorch_model)(-\d+-of-\d+)?\.bin")


def is_pickle(path: Path) -> bool:
    """Whether a file's name says that its weights are pickled."""
    return path.suffix.lower() in _PICKLE_SUFFIXES


def refuse_pickle(path: Path, source: str) -> None:
    """Refuses pickled weights, and says how to turn them into safetensors.

    Args:
        path: The pickled file.
        source: The source string that led to it.

    Raises:
        IntegrityError: Always.
    """
    call = f"print(resolve({source!r}, sha256='HASH'))"
    command = f"from llmbind_cli.weights.cache import resolve; {call}"
    raise IntegrityError(
        f"{path}: pickled weights can run code when they are loaded, so they are refused; if you"
        f" trust the file, convert it once by its hash (sha256sum {shlex.quote(path.name)}):"
        f" python -c {shlex.quote(command)}"
    )


def select_weights(names: Iterable[str]) -> list[str]:
    """Chooses the weight files of a model directory.

    Args:
        names: All files of the directory, relative to it, with `/` between folders.

    Returns:
        The safetensors files to load, sorted. For diffusers layout those of the components.
    """
    return _select(names, _weights_of_folder)


def select_pickles(names: Iterable[str]) -> list[str]:
    """Chooses pickled weights that stand where safetensors should; see `select_weights`."""
    return _select(names, lambda files: [n for n in files if _PICKLE.fullmatch(_base(n))])


def sole_pickle(names: Iterable[str]) -> str | None:
    """Finds the pickled weights that could be converted, given their hash.

    Args:
        names: As for `select_weights`.

    Returns:
        The one pickled weight file of a transformers directory without safetensors; else None.
    """
    names = set(names)
    pickles = select_pickles(names)
    if PIPELINE_INDEX in names or select_weights(names) or len(pickles) != 1:
        return None
    return pickles[0]


def select_companions(names: Iterable[str]) -> list[str]:
    """Chooses configuration and tokenizer files, never code; see `select_weights`."""
    return _select(
        names,
        lambda files: [
            name
            for name in files
            if PurePosixPath(name).suffix in _COMPANION_SUFFIXES
            and not name.endswith(".bin.index.json")
        ],
        with_root=True,
    )


def list_files(directory: Path) -> list[str]:
    """Lists the files of a directory and of its immediate sub-folders.

    Args:
        directory: The directory.

    Returns:
        Names relative to it, with `/` between folders, sorted.
    """
    found = [*directory.glob("*"), *directory.glob("*/*")]
    return sorted(path.relative_to(directory).as_posix() for path in found if path.is_file())


def check_model_directory(directory: Path, weights: Iterable[str]) -> None:
    """Checks what can be checked cheaply before a directory's weights are loaded.

    Args:
        directory: The model directory.
        weights: Its weight files, from `select_weights`.

    Raises:
        IntegrityError: A weight file is truncated, or a shard that the index names is missing.
        PolicyError: Loading would need code from the directory.
    """
    refuse_remote_code(directory, list_files(directory), str(directory))
    weights = list(weights)
    for name in weights:
        check_safetensors(directory / name)
    for name in weights:
        stem = re.sub(r"-\d+-of-\d+\.safetensors$", "", name)
        index = directory / f"{stem}.safetensors.index.json"
        if stem == name or not index.is_file():
            continue
        for shard in sorted(set(_read_json(index).get("weight_map", {}).values())):
            if not (index.parent / shard).is_file():
                raise IntegrityError(f"{index}: names {shard}, which is missing; fetch it again")


def refuse_remote_code(directory: Path, names: Iterable[str], subject: str) -> None:
    """Refuses a model whose classes are Python files of its repository.

    Args:
        directory: Holds `config.json` or `model_index.json`, where the model has one.
        names: All files of the repository, also those that were not fetched.
        subject: How the message names the repository.

    Raises:
        PolicyError: transformers has no class of its own for it, or a pipeline or component is
            defined by a Python file.
    """
    config = _read_json(directory / "config.json")
    if config.get("auto_map") and not _is_native(str(config.get("model_type", ""))):
        raise PolicyError(
            f"{subject}: model type {config.get('model_type')!r} needs Python code from its"
            " repository, which llmbind never runs; choose a model that transformers has itself"
        )
    available = set(names)
    for component, value in _read_json(directory / PIPELINE_INDEX).items():
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            continue
        if {f"{value[0]}.py", f"{component}/{value[0]}.py"} & available:
            raise PolicyError(
                f"{subject}: {component} needs Python code from its repository ({value[0]}.py),"
                " which llmbind never runs; choose a pipeline of diffusers' own classes"
            )


def require_weights(weights: list[str], names: Iterable[str], root: Path, source: str) -> None:
    """Refuses a model directory that lacks safetensors weights, in any component.

    Args:
        weights: What `select_weights` found.
        names: All files of the directory.
        root: The directory, for the message.
        source: The source string that led to it.

    Raises:
        IntegrityError: It, or a component of its pipeline, has pickled weights only.
        ModelNotFoundError: It has no weights at all.
    """
    loadable = {_folder(name) for name in weights}
    for pickled in select_pickles(names):
        if pickled not in weights and _folder(pickled) not in loadable:
            refuse_pickle(root / pickled, source)
    if not weights:
        raise ModelNotFoundError(f"{root}: no *.safetensors file where a model's weights belong")


def _select(names: Iterable[str], choose: Any, *, with_root: bool = False) -> list[str]:
    names = set(names)
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        if "/" not in folder and base:
            folders.setdefault(folder, []).append(name)
    if PIPELINE_INDEX not in names:
        folders = {"": folders.get("", [])}
    elif not with_root:
        # Single-file copies of the whole pipeline lie at the root; the components are what loads.
        folders.pop("", None)
    return sorted(name for files in folders.values() for name in choose(sorted(files)))


def _weights_of_folder(files: list[str]) -> list[str]:
    for pattern in (_WHOLE, _SHARD):
        found = [name for name in files if pattern.fullmatch(_base(name))]
        if found:
            return found
    return [name for name in files if name.endswith(".safetensors") and "/" not in name]


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: cannot be read as JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _is_native(model_type: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES
