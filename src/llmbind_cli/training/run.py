"""``llmbind train``: a recipe becomes a bundle."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmbind_cli import __version__
from llmbind_cli.console import console
from llmbind_cli.data.batches import endless_batches
from llmbind_cli.errors import OutputError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.build import build_model
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig
from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.recipes.schema import LoraMoeSection, Recipe
from llmbind_cli.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from llmbind_cli.training.engine import TorchEngine
from llmbind_cli.training.interrupt import GracefulInterrupt
from llmbind_cli.training.loop import train_loop
from llmbind_cli.training.model_card import training_card
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.optim import parameter_groups
from llmbind_cli.training.samples import TrainingData, load_samples
from llmbind_cli.weights.atomic import write_atomically

BUNDLE_NAME = "bundle"
MANIFEST_NAME = "run.json"


def train(
    recipe_path: Path,
    *,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    offline: bool = False,
) -> int:
    """Train a binding model as a recipe says.

    Writes ``log.jsonl``, checkpoints under ``last/``, ``run.json`` and the finished ``bundle/``
    into the output folder.

    Args:
        recipe_path: The TOML recipe.
        overrides: ``key=value`` settings over it.
        output: Folder in place of ``output.dir``.
        resume: Go on from the folder's last checkpoint.
        dry_run: Check recipe and data, print counts and stop before any training.
        device: ``auto``, ``cpu`` or ``cuda``.
        offline: Never use the network.

    Returns:
        Exit code: 0, or 130 or 143 when a signal stopped the run after a checkpoint.

    Raises:
        ConfigurationError: The recipe is wrong, or was changed before resuming.
        InputDataError: The data are malformed.
        OutputError: The output folder cannot be used.
    """
    recipe = load_recipe(recipe_path, overrides=overrides)
    directory = output or recipe.output.dir
    if not dry_run:
        _prepare(directory, resume=resume)
    model = _build(recipe, device=device, offline=offline)
    data = load_samples(recipe.data, model.tokenizer, model.token_table, recipe.train)
    total_steps = _total_steps(recipe, len(data.mixture(recipe.train.seed)))
    _report(model, data, total_steps)
    if dry_run:
        return 0

    optim, schedule = recipe.optim, recipe.train
    engine = TorchEngine(
        groups=parameter_groups(model, lr=optim.lr, rows_lr=optim.rows_lr or optim.lr),
        betas=optim.betas,
        weight_decay=optim.weight_decay,
        clip=optim.clip,
        accumulation=schedule.accumulation,
        warmup_steps=optim.warmup_steps,
        total_steps=total_steps if optim.schedule == "linear" else None,
        device=model.device,
        dtype=model.dtype,
    )
    objective = LanguageObjective(
        model, aux_coefficient=optim.aux_coefficient, talk_target=schedule.talk_target
    )
    settings = _provenance(recipe)
    first_step = 0
    if resume:
        done = load_checkpoint(directory, model, engine, recipe=settings, data_sha256=data.sha256)
        first_step = done.step
        console.log(f"resumed after step {first_step} of {total_steps}")

    def describe(step: int) -> str:
        seen = step * schedule.accumulation * schedule.batch_size
        model.config = dataclasses.replace(
            model.config,
            training={
                "llmbind": __version__,
                "steps": step,
                "dialogues_seen": seen,
                "sources": data.sources,
                "data_sha256": data.sha256,
                "recipe": settings,
            },
        )
        return training_card(model)

    def checkpoint(step: int) -> None:
        progress = Progress(
            step=step,
            batches=step * schedule.accumulation,
            recipe=settings,
            data_sha256=data.sha256,
        )
        save_checkpoint(directory, model, engine, progress, card=describe(step))

    batches = endless_batches(
        data.samples,
        data.mixture(schedule.seed),
        schedule.batch_size,
        seed=schedule.seed,
        skip=first_step * schedule.accumulation,
    )
    with GracefulInterrupt() as interrupt:
        step = train_loop(
            objective,
            engine,
            batches,
            first_step=first_step,
            total_steps=total_steps,
            train=schedule,
            directory=directory,
            checkpoint=checkpoint,
            stop_requested=interrupt.requested,
        )
    if interrupt.received is not None:
        console.log(f"stopped after step {step}; go on with --resume")
        return interrupt.exit_code()
    dtype = getattr(torch, recipe.output.dtype)
    save_bundle(model, directory / BUNDLE_NAME, card=describe(step), dtype=dtype)
    _write_manifest(directory / MANIFEST_NAME, model)
    console.result(str(directory / BUNDLE_NAME))
    return 0


def _provenance(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, its files by name only.

    A bundle is passed on; where the files lay on the machine that trained it is not.
    """
    settings = recipe.model_dump(mode="json", exclude={"output"})
    for source in settings["data"]:
        for key in {"paths", "talk"} & source.keys():
            source[key] = [Path(path).name for path in source[key]]
        for modality, paths in source.get("captions", {}).items():
            source["captions"][modality] = [Path(path).name for path in paths]
    return settings


def _prepare(directory: Path, *, resume: bool) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{directory}: cannot write here: {error.strerror}") from error
    if not resume and any(path.name != ".writable" for path in directory.iterdir()):
        raise OutputError(
            f"{directory} is not empty; go on with its run by --resume, or name another --output"
        )


def _build(recipe: Recipe, *, device: str, offline: bool) -> BoundModel:
    model = build_model(
        name=recipe.output.name,
        base=recipe.model.base,
        base_sha256=recipe.model.base_sha256,
        tasks=list(recipe.tokens.tasks),
        adapter=_adapter_config(recipe.lora_moe),
        licences=dict(recipe.output.licences),
        device=device,
        dtype=recipe.model.dtype,
        seed=recipe.train.seed,
        offline=offline,
    )
    if model.device.type == "cpu":
        # The fused attention's backward pass takes twice as long there at dialogue lengths.
        model.language_model.set_attn_implementation("eager")  # type: ignore[operator]
    return model


def _adapter_config(section: LoraMoeSection) -> LoraMoeConfig:
    layers = section.layers
    return LoraMoeConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        num_experts=section.num_experts,
        top_k=section.top_k,
        lora_dropout=section.dropout,
        router=section.router,
        target_modules=list(section.target_modules),
        layers_to_transform=layers if isinstance(layers, list) else None,
        every=1 if layers == "all" else 2,
    )


def _total_steps(recipe: Recipe, num_samples: int) -> int:
    train = recipe.train
    if train.steps is not None:
        return train.steps
    batches = math.ceil(num_samples / train.batch_size) * float(train.epochs or 0)
    return max(1, math.ceil(batches / train.accumulation))


def _report(model: BoundModel, data: TrainingData, total_steps: int) -> None:
    parameters = list(model.language_model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    lengths = [len(sample.ids) for sample in data.samples]
    calls = ", ".join(f"{task} {count}" for task, count in data.task_counts().items())
    console.log(f"parameters: {trained:,} of {total:,} train ({trained / total:.3%})")
    console.log(
        f"data: {len(lengths):,} dialogues, {sum(lengths):,} tokens, the longest {max(lengths)}; "
        f"calls: {calls}"
    )
    console.log(f"optimizer steps: {total_steps:,}")


def _write_manifest(path: Path, model: BoundModel) -> None:
    manifest: dict[str, Any] = {"name": model.config.name, **model.config.training}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))
