"""Training checkpoints: a bundle, the optimizer's state, and where the run stood.

``last`` is what a run resumes from; ``best`` is the bundle of the lowest loss on the dialogues
held out. Each is written beside the one before and swapped in, so that one of the two always
loads. Under several processes the folder is one that all of them see: the first process writes
the bundle, whole, and each process its own shard of the optimizer's state.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llmbind_cli.errors import (
    ConfigurationError,
    IntegrityError,
    LlmbindError,
    ModelNotFoundError,
)
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.checkpoint import restore_weights, save_bundle
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.engine import Engine
from llmbind_cli.weights.atomic import recover_directory, replace_directory, storage_error

LAST = "last"
BEST = "best"
PROGRESS_NAME = "progress.json"
SCORE_NAME = "score.json"
BUNDLE_NAME = "bundle"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stood.

    Attributes:
        step: Optimizer steps done.
        batches: Batches that all processes together have consumed.
        processes: Number of processes.
        recipe: The whole recipe, to refuse a changed one.
        data_sha256: Hash of the encoded training data.
    """

    step: int
    batches: int
    processes: int
    recipe: dict[str, Any]
    data_sha256: str


def has_checkpoint(directory: Path) -> bool:
    """Tell whether a run can be resumed in ``directory``."""
    recover_directory(directory / LAST)
    return (directory / LAST / PROGRESS_NAME).is_file()


def save_checkpoint(
    directory: Path,
    model: BoundModel,
    engine: Engine,
    processes: Processes,
    progress: Progress,
    *,
    card: Callable[[], str],
) -> None:
    """Write ``directory/last``; every process calls this.

    Args:
        directory: Output folder of the run.
        model: The model that the engine trains.
        engine: Owner of the optimizer.
        processes: All processes of the run.
        progress: Where the run stands.
        card: Makes the bundle's model card; called while the weights are whole.

    Raises:
        StorageError: The disk is full or failing; the checkpoint before is intact (fault 40).
        OutputError: The folder cannot be written.
    """
    with _swapped_in(directory / LAST, processes) as staging:
        _save_bundle(staging, model, engine, processes, card=card)
        processes.every(lambda: _save_shard(staging, engine, processes.rank))
        text = json.dumps(asdict(progress))
        processes.first(lambda: (staging / PROGRESS_NAME).write_text(text, encoding="utf-8"))


def save_best(
    directory: Path,
    model: BoundModel,
    engine: Engine,
    processes: Processes,
    *,
    step: int,
    loss: float,
    card: Callable[[], str],
    dtype: torch.dtype,
) -> None:
    """Write ``directory/best``: a bundle, the step and the loss; every process calls this.

    Raises:
        StorageError: The disk is full or failing; the best before is intact.
        OutputError: The folder cannot be written.
    """
    with _swapped_in(directory / BEST, processes) as staging:
        _save_bundle(staging, model, engine, processes, card=card, dtype=dtype)
        text = json.dumps({"step": step, "loss_holdout": loss})
        processes.first(lambda: (staging / SCORE_NAME).write_text(text, encoding="utf-8"))


def best_loss(directory: Path) -> float:
    """Return the loss of ``directory/best``; infinity where there is none."""
    recover_directory(directory / BEST)
    path = directory / BEST / SCORE_NAME
    if not path.is_file():
        return float("inf")
    return float(json.loads(path.read_text(encoding="utf-8"))["loss_holdout"])


def load_weights(
    directory: Path, model: BoundModel, *, recipe: dict[str, Any], data_sha256: str, processes: int
) -> Progress:
    """Put the trained weights of the last checkpoint into the model, before an engine takes it.

    Args:
        directory: Output folder of the run.
        model: The model as it was built.
        recipe: The recipe now.
        data_sha256: Hash of the encoded training data now.
        processes: Number of processes now.

    Raises:
        ModelNotFoundError: There is no checkpoint.
        ConfigurationError: Recipe, data or number of processes differ from those of the run
            (fault 50).
        IntegrityError: The checkpoint does not fit the model.
    """
    last = directory / LAST
    path = last / PROGRESS_NAME
    if not path.is_file():
        raise ModelNotFoundError(
            f"{directory}: nothing to resume here; start without --resume, in an empty folder"
        )
    progress = _read_progress(path)
    _refuse_changes(path, progress, recipe, data_sha256, processes)
    restore_weights(model, last / BUNDLE_NAME)
    return progress


def load_state(directory: Path, engine: Engine, processes: Processes, *, step: int) -> None:
    """Put optimizer and random numbers where the last checkpoint left them.

    Raises:
        IntegrityError: The checkpoint does not fit the engine.
    """
    from safetensors.torch import load_file

    last = directory / LAST
    engine.load_state(last, step=step)
    path = _random_path(last, processes.rank)
    if not path.is_file():
        raise IntegrityError(f"{path}: the random-number state is missing")
    states = load_file(path)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _save_bundle(
    staging: Path,
    model: BoundModel,
    engine: Engine,
    processes: Processes,
    *,
    card: Callable[[], str],
    dtype: torch.dtype | None = None,
) -> None:
    with engine.whole_weights():
        processes.first(lambda: save_bundle(model, staging / BUNDLE_NAME, card=card(), dtype=dtype))


def _save_shard(staging: Path, engine: Engine, rank: int) -> None:
    from safetensors.torch import save

    engine.save_state(staging)
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    _random_path(staging, rank).write_bytes(save(states))


def _random_path(directory: Path, rank: int) -> Path:
    return directory / f"random-{rank}.safetensors"


@contextmanager
def _swapped_in(target: Path, processes: Processes) -> Iterator[Path]:
    """Give an empty folder beside ``target`` that takes its place when the block ends."""
    staging = target.with_name(f".{target.name}.new")

    def start() -> None:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)

    try:
        processes.first(start)
        yield staging
        processes.first(lambda: replace_directory(staging, target))
    except Exception as error:
        if processes.is_first:
            shutil.rmtree(staging, ignore_errors=True)
        failure = _storage_failure(target, error)
        if failure is None:
            raise
        raise failure from error


def _storage_failure(path: Path, error: Exception) -> LlmbindError | None:
    """Return what a full or failing disk is reported as; ``None`` for another error."""
    if isinstance(error, OSError):
        return storage_error(path, error)
    # The tokenizer's library reports a failed write by an error of no particular kind.
    match = re.search(r"\(os error (\d+)\)", str(error))
    if match is None or isinstance(error, LlmbindError):
        return None
    number = int(match[1])
    return storage_error(path, OSError(number, errno.errorcode.get(number, str(error))))


def _read_progress(path: Path) -> Progress:
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path}: not the progress of a run: {error}") from error


def _refuse_changes(
    path: Path, progress: Progress, recipe: dict[str, Any], data_sha256: str, processes: int
) -> None:
    before, now = _flat(progress.recipe), _flat(json.loads(json.dumps(recipe)))
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigurationError(
            f"{path}: the run cannot be resumed with a changed recipe: {'; '.join(changed)}"
        )
    if progress.data_sha256 != data_sha256:
        raise ConfigurationError(
            f"{path}: the run cannot be resumed: the training data has other content"
        )
    if progress.processes != processes:
        raise ConfigurationError(
            f"{path}: the run cannot be resumed with {processes} processes: it had "
            f"{progress.processes}, which share its steps and its optimizer's state"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list)):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}".strip("."))
    return flat
