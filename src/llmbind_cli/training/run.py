"""``llmbind train``: a recipe becomes a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from llmbind_cli import __version__
from llmbind_cli.console import console
from llmbind_cli.data.batches import endless_batches
from llmbind_cli.errors import ConfigurationError
from llmbind_cli.interrupt import GracefulInterrupt
from llmbind_cli.model.architecture import check_architecture
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.nn.device import choose_device
from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.recipes.schema import Recipe
from llmbind_cli.training.checkpoints import (
    BUNDLE_NAME,
    Progress,
    best_loss,
    load_state,
    load_weights,
    save_best,
    save_checkpoint,
)
from llmbind_cli.training.deepspeed_engine import DeepSpeedEngine, require_deepspeed
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.dry_run import dry_run as show_dry_run
from llmbind_cli.training.engine import Engine, TorchEngine
from llmbind_cli.training.holdout import Holdout, split_holdout
from llmbind_cli.training.loop import train_loop
from llmbind_cli.training.manifest import MANIFEST_NAME, provenance, write_manifest
from llmbind_cli.training.meter import Meter
from llmbind_cli.training.model_card import training_card
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.optim import Optimization, parameter_groups, total_steps
from llmbind_cli.training.output_folder import claimed
from llmbind_cli.training.parameters import count_model, router_names
from llmbind_cli.training.picture_survey import pictures_to_score_on, refuse_overlap
from llmbind_cli.training.plot import PLOT_NAME, plot_run
from llmbind_cli.training.recipe_model import (
    adapter_config,
    build_from_recipe,
    check_pictures,
    collator,
    mask_weights,
    take_start,
)
from llmbind_cli.training.run_log import LOG_NAME, RunLog
from llmbind_cli.training.samples import TrainingData, load_samples
from llmbind_cli.training.start import Start
from llmbind_cli.training.tensorboard import EventWriter, require_tensorboard


def train(
    recipe_path: Path,
    *,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    offline: bool = False,
    make_run: Callable[..., TrainingRun] | None = None,
) -> int:
    """Train a binding model as a recipe says, in this process or in all that a launcher started.

    Writes ``log.jsonl``, checkpoints under ``last/`` and ``best/``, ``run.json`` and the finished
    ``bundle/`` into the output folder.

    Args:
        recipe_path: The TOML recipe.
        overrides: ``key=value`` settings over it.
        output: Folder in place of ``output.dir``.
        resume: Go on from the folder's last checkpoint.
        dry_run: Check recipe and data, write a report to stdout and train nothing.
        device: ``auto``, ``cpu`` or ``cuda``.
        offline: Never use the network.
        make_run: Makes the run in place of :class:`TrainingRun`, with the same arguments, for a
            training with further losses.

    Returns:
        Exit code: 0, or 130 or 143 when a signal stopped the run after a checkpoint.

    Raises:
        ConfigurationError: The recipe is wrong, or was changed before resuming.
        InputDataError: The data are malformed, or hold pictures that the result is scored on.
        OutputError: The output folder cannot be used.
        UnavailableError: The recipe needs DeepSpeed, and it is not installed.
    """
    recipe = load_recipe(recipe_path, overrides=overrides)
    if dry_run:
        show_dry_run(
            recipe,
            adapter=adapter_config(recipe.lora_moe),
            device=device,
            offline=offline,
            directory=output,
        )
        return 0
    check_pictures(recipe)
    if recipe.train.tensorboard:
        require_tensorboard()
    processes = Processes.from_environment()
    _check_engine(recipe, processes)
    if not processes.is_first:
        console.quiet = True
    directory = output or recipe.output.dir
    with (
        processes.joined(choose_device(device).type),
        claimed(directory, processes, resume=resume) as goes_on,
    ):
        model = build_from_recipe(recipe, device=device, offline=offline)
        check_architecture(recipe.model.architecture, model.language_model.config)
        start = take_start(recipe, model, offline=offline)
        # Each process drops other inputs; the weights were drawn alike.
        torch.manual_seed(recipe.train.seed + processes.rank)
        evaluated = pictures_to_score_on(recipe)
        data = load_samples(
            recipe.data,
            model.tokenizer,
            model.token_table,
            recipe.train,
            weights=recipe.shares(),
            left_out=evaluated.by_key if recipe.overlap == "drop" else (),
            slot=model.image_slot,
        )
        refuse_overlap(data, evaluated)
        run = (make_run or TrainingRun)(
            recipe,
            model=model,
            data=data,
            directory=directory,
            processes=processes,
            start=start,
        )
        return run.go(resume=goes_on)


class TrainingRun:
    """One run over a model and its data.

    Args:
        recipe: The recipe.
        model: The model as it was built.
        data: All samples.
        directory: The output folder, which this run holds.
        processes: All processes of the run, joined.
        start: The bundle whose weights the model has been given.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        model: BoundModel,
        data: TrainingData,
        directory: Path,
        processes: Processes,
        start: Start | None = None,
    ) -> None:
        train = recipe.train
        self._recipe = recipe
        self._model = model
        self._data, self._held_out = split_holdout(data, share=train.holdout, seed=train.seed)
        self._directory = directory
        self._processes = processes
        self._settings = provenance(recipe, start=start)
        self._start = start
        self._mixture = self._data.mixture(train.seed)
        self._collated = collator(recipe, model)
        self._total_steps = total_steps(train, len(self._mixture), processes=processes.size)
        self._batches_a_step = train.accumulation * processes.size

    def go(self, *, resume: bool) -> int:
        """Train, save the bundle and its manifest, and return the exit code."""
        train, model, processes = self._recipe.train, self._model, self._processes
        self._report()
        first_step = 0
        if resume:
            first_step = load_weights(
                self._directory,
                model,
                recipe=self._settings,
                data_sha256=self._data.sha256,
                processes=processes.size,
            ).step
        engine = self._engine()
        if resume:
            load_state(self._directory, engine, processes, step=first_step)
            console.log(f"resumed after step {first_step} of {self._total_steps}")
        path = self._directory / LOG_NAME if processes.is_first else None
        log = RunLog(path, step=first_step)
        batches = endless_batches(
            self._data.samples,
            self._mixture,
            train.batch_size,
            seed=train.seed,
            skip=first_step * self._batches_a_step,
            rank=processes.rank,
            world_size=processes.size,
            collated=self._collated,
        )
        meter = Meter(
            routers=router_names(model.language_model),
            first_step=first_step,
            total_steps=self._total_steps,
        )
        with GracefulInterrupt() as interrupt, self._events(first_step) as events:
            step, stopped_by = train_loop(
                engine,
                batches,
                first_step=first_step,
                total_steps=self._total_steps,
                train=train,
                processes=processes,
                meter=meter,
                log=log,
                events=events,
                checkpoint=lambda step: self._checkpoint(engine, step),
                evaluate=self._evaluation(engine, log, events),
                interrupt=interrupt,
            )
        if path is not None:
            plot_run(path, self._directory / PLOT_NAME)
        if stopped_by is not None:
            console.log(f"stopped after step {step}; go on with --resume")
            return 128 + stopped_by
        with engine.whole_weights():
            processes.first(lambda: self._finish(step))
        return 0

    def objective(self) -> LanguageObjective:
        """Return what is minimised."""
        return LanguageObjective(
            self._model,
            aux_coefficient=self._recipe.optim.aux_coefficient,
            talk_target=self._recipe.train.talk_target,
            masks=mask_weights(self._recipe.sight),
        )

    def _engine(self) -> Engine:
        optim, train, model = self._recipe.optim, self._recipe.train, self._model
        objective = self.objective()
        optimization = Optimization(
            groups=parameter_groups(
                model,
                lr=optim.lr,
                rows_lr=optim.rows_lr or optim.lr,
                sight_lr=optim.sight_lr,
            ),
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            clip=optim.clip,
            accumulation=train.accumulation,
            warmup_steps=optim.warmup_steps,
            total_steps=self._total_steps if optim.schedule == "linear" else None,
        )
        if self._recipe.engine.kind == "torch":
            return TorchEngine(objective, optimization, device=model.device, dtype=model.dtype)
        return DeepSpeedEngine(
            objective,
            optimization,
            settings=self._recipe.engine,
            processes=self._processes,
            batch_size=train.batch_size,
            device=model.device,
            dtype=model.dtype,
        )

    def _events(self, first_step: int) -> AbstractContextManager[EventWriter | None]:
        """Return the writer of TensorBoard's events, where this process is to write them."""
        if not self._recipe.train.tensorboard or not self._processes.is_first:
            return nullcontext()
        return EventWriter(self._directory, first_step=first_step)

    def _evaluation(
        self, engine: Engine, log: RunLog, events: EventWriter | None
    ) -> Callable[[int], None] | None:
        """Return what measures the loss on the held-out dialogues and keeps the best bundle."""
        if not self._held_out:
            return None
        holdout = Holdout(
            self._held_out,
            batch_size=self._recipe.train.batch_size,
            processes=self._processes,
            collated=self._collated,
            mask_weight=0.0 if (masks := mask_weights(self._recipe.sight)) is None else masks.mask,
        )

        def evaluate(step: int) -> None:
            held_out = holdout.loss(engine)
            loss = held_out.total
            parts = {} if held_out.mask is None else {"loss_holdout_mask": held_out.mask}
            log.write({"step": step, "loss_holdout": loss, **parts})
            if events is not None:
                events.add_holdout(step, loss)
            console.log(f"step {step}: loss {loss:.4f} on {len(self._held_out)} held-out dialogues")
            # All processes do as the first one says: only its host may see the folder at once.
            is_best = loss < best_loss(self._directory)
            if self._processes.gather(is_best)[0]:
                save_best(
                    self._directory,
                    self._model,
                    engine,
                    self._processes,
                    step=step,
                    loss=loss,
                    card=lambda: self._describe(step),
                    dtype=getattr(torch, self._recipe.output.dtype),
                )

        return evaluate

    def _checkpoint(self, engine: Engine, step: int) -> None:
        progress = Progress(
            step=step,
            batches=step * self._batches_a_step,
            processes=self._processes.size,
            recipe=self._settings,
            data_sha256=self._data.sha256,
        )
        save_checkpoint(
            self._directory,
            self._model,
            engine,
            self._processes,
            progress,
            card=lambda: self._describe(step),
        )

    def _finish(self, step: int) -> None:
        card = self._describe(step)
        dtype = getattr(torch, self._recipe.output.dtype)
        bundle = self._directory / BUNDLE_NAME
        save_bundle(self._model, bundle, card=card, dtype=dtype)
        write_manifest(self._directory / MANIFEST_NAME, self._model)
        console.result(str(bundle))

    def _describe(self, step: int) -> str:
        """Put the provenance into the model's configuration and return the model card."""
        training: dict[str, Any] = {
            "llmbind": __version__,
            "steps": step,
            "processes": self._processes.size,
            "dialogues_seen": step * self._batches_a_step * self._recipe.train.batch_size,
            "dialogues_held_out": len(self._held_out),
            "sources": self._data.sources,
            "data_sha256": self._data.sha256,
            "parameters_trained": count_model(self._model).trainable,
            "recipe": self._settings,
        }
        if self._start:
            training["start"] = self._start.provenance(training)
        self._model.config = dataclasses.replace(self._model.config, training=training)
        return training_card(self._model.config)

    def _report(self) -> None:
        counts = count_model(self._model)
        lengths = [len(sample.ids) for sample in self._data.samples]
        calls = ", ".join(f"{task} {count}" for task, count in self._data.task_counts().items())
        parts = ", ".join(
            f"{name} {part.trainable:,}" for name, part in counts.parts.items() if part.trainable
        )
        console.log(
            f"parameters: {counts.trainable:,} of {counts.total:,} train "
            f"({counts.trainable / counts.total:.3%}): {parts}"
        )
        console.log(
            f"data: {len(lengths):,} dialogues, {sum(lengths):,} tokens, "
            f"the longest {max(lengths)}; calls: {calls}"
        )
        if self._held_out:
            console.log(f"held out: {len(self._held_out):,} dialogues")
        console.log(f"optimizer steps: {self._total_steps:,}")


def _check_engine(recipe: Recipe, processes: Processes) -> None:
    if recipe.engine.kind == "deepspeed":
        require_deepspeed()
    elif processes.size > 1:
        raise ConfigurationError(
            f'engine.kind = "torch" trains in one process, but a launcher started '
            f'{processes.size}; set engine.kind = "deepspeed"'
        )
