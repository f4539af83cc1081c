"""Training checkpoints: a bundle, the optimizer's state, and where the run stood.

A checkpoint is written beside the last one and swapped in, so that one of the two always loads.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor

from llmbind_cli.errors import ConfigurationError, IntegrityError, ModelNotFoundError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.checkpoint import read_heads, save_bundle
from llmbind_cli.model.config import ADAPTER_DIR
from llmbind_cli.model.lora_moe_adapter import adapter_state_dict
from llmbind_cli.model.token_rows import INPUT_ROWS, OUTPUT_ROWS, attached_rows
from llmbind_cli.training.engine import Engine
from llmbind_cli.weights.atomic import recover_directory, replace_directory
from llmbind_cli.weights.tensors import check_tensors

LAST = "last"
PROGRESS_NAME = "progress.json"
RNG_NAME = "rng.safetensors"
BUNDLE_NAME = "bundle"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stood.

    Attributes:
        step: Optimizer steps done.
        batches: Batches consumed.
        recipe: The whole recipe, to refuse a changed one.
        data_sha256: Hash of the encoded training data.
    """

    step: int
    batches: int
    recipe: dict[str, Any]
    data_sha256: str


def save_checkpoint(
    directory: Path, model: BoundModel, engine: Engine, progress: Progress, *, card: str
) -> None:
    """Write ``directory/last``, new folder first, then swapped in."""
    from safetensors.torch import save_file

    staging = directory / f".{LAST}.new"
    if staging.exists():
        _remove(staging)
    staging.mkdir(parents=True)
    save_bundle(model, staging / BUNDLE_NAME, card=card)
    engine.save_state(staging)
    save_file(_rng_states(), staging / RNG_NAME)
    (staging / PROGRESS_NAME).write_text(json.dumps(asdict(progress)), encoding="utf-8")
    replace_directory(staging, directory / LAST)


def load_checkpoint(
    directory: Path, model: BoundModel, engine: Engine, *, recipe: dict[str, Any], data_sha256: str
) -> Progress:
    """Put model, optimizer and random numbers where the last checkpoint left them.

    Raises:
        ModelNotFoundError: There is no checkpoint.
        ConfigurationError: Recipe or data differ from those of the run (fault 50).
        IntegrityError: The checkpoint does not fit the model.
    """
    from safetensors.torch import load_file

    last = directory / LAST
    recover_directory(last)
    path = last / PROGRESS_NAME
    if not path.is_file():
        raise ModelNotFoundError(f"{directory}: nothing to resume here; start without --resume")
    progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
    _refuse_changes(path, progress, recipe, data_sha256)
    adapter = last / BUNDLE_NAME / ADAPTER_DIR / SAFETENSORS_WEIGHTS_NAME
    parameters = adapter_state_dict(model.language_model)
    tensors = load_file(adapter)
    check_tensors(adapter, tensors, {k: tuple(p.shape) for k, p in parameters.items()})
    rows = attached_rows(model.language_model)
    saved = read_heads(
        last / BUNDLE_NAME,
        num_tokens=rows[INPUT_ROWS].shape[0],
        hidden_size=rows[INPUT_ROWS].shape[1],
        tied=OUTPUT_ROWS not in rows,
    )
    with torch.no_grad():
        for name, parameter in (parameters | rows).items():
            parameter.copy_((tensors | saved)[name])
    engine.load_state(last, step=progress.step)
    _restore_rng(load_file(last / RNG_NAME))
    return progress


def _refuse_changes(
    path: Path, progress: Progress, recipe: dict[str, Any], data_sha256: str
) -> None:
    before, now = _flat(progress.recipe), _flat(json.loads(json.dumps(recipe)))
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if not changed and progress.data_sha256 != data_sha256:
        changed = ["the training data has other content"]
    if changed:
        raise ConfigurationError(
            f"{path}: the run cannot be resumed with a changed recipe: {'; '.join(changed)}"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list)):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}".strip("."))
    return flat


def _rng_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _restore_rng(states: dict[str, Tensor]) -> None:
    if "cpu" not in states:
        raise IntegrityError(f"{RNG_NAME}: no random-number state in the checkpoint")
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{index}"], index)


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory)
