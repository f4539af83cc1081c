"""Runs an evaluation recipe: what it needs, what it makes, its scorings, its gates.

All that is needed is looked for, and all that the recipe says is checked, before anything is made,
so that a missing data set or network, or a wrong key, does not show after hours.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.errors import ConfigurationError, InputDataError, ModelNotFoundError, UsageError
from llmbind_cli.evaluation import processes
from llmbind_cli.evaluation.gate import Gate, make_gate
from llmbind_cli.evaluation.metric_table import find_metrics
from llmbind_cli.evaluation.recipe_steps import command_of, run_step
from llmbind_cli.evaluation.report import Report, metric_key
from llmbind_cli.evaluation.report_folder import prepare_folder
from llmbind_cli.evaluation.run import EvalSettings, Scoring, require_fitting, run_eval
from llmbind_cli.metrics.extractors.published import parse_weights
from llmbind_cli.recipes.eval_schema import EvalRecipe, MakeSection, load_eval_recipe
from llmbind_cli.weights.hashes import normalise_pin
from llmbind_cli.weights.sources import parse_source

WORK = Path("llmbind-eval")
DATA = Path("data")


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """Where a recipe finds and makes things.

    Attributes:
        data: Stands for ``{data}``; ``None``: the folder ``data``.
        work: Stands for ``{work}``; ``None``: ``llmbind-eval/NAME``.
        model: The bundle that makes things.
        dry_run: Only say what would be done, and what is missing.
        seed: Instead of the recipe's, or ``None``.
        resume: Take plans that were made before.
    """

    data: Path | None = None
    work: Path | None = None
    model: str = "embedded"
    dry_run: bool = False
    seed: int | None = None
    resume: bool = True


def run_recipe(
    path: Path, gates: Sequence[Gate], settings: EvalSettings, places: RecipeSettings
) -> Report | None:
    """Run a recipe.

    Args:
        path: The TOML file.
        gates: Further bounds, on figures named ``SCORING/METRIC``.
        settings: What holds for the run; its seed and recipe are replaced, and the weights that it
            does not name are the recipe's.
        places: Where its data is, and where to what is made.

    Returns:
        The report; ``None`` after a dry run.

    Raises:
        ConfigurationError: The recipe is wrong, or what it says does not fit together.
        UsageError: One of ``gates`` is on a figure that the recipe does not give.
        InputDataError: Its data is not there; the message says how to get it.
        ModelNotFoundError: Weights of an extractor are not there.
        LlmbindError: As :func:`~llmbind_cli.evaluation.run.run_eval`, or as the command that makes
            something.
    """
    work = places.work or WORK / path.stem
    data = places.data or DATA
    recipe = load_eval_recipe(path, data=data, work=work)
    scorings = _scorings(recipe)
    chosen = replace(
        settings,
        seed=recipe.seed if places.seed is None else places.seed,
        weights={**_weights(path, recipe), **settings.weights},
        recipe=path,
    )
    own = _checked_gates(path, recipe, scorings, chosen)
    require_fitting(scorings, gates, chosen)
    commands = [
        command_of(
            make,
            work=work,
            model=places.model,
            device=settings.device,
            seed=chosen.seed,
            offline=settings.offline,
        )
        for make in recipe.make
    ]
    files = list(_absent_files(recipe, work))
    if places.dry_run:
        if processes.is_first():
            absent = [*files, *_absent_weights(scorings, chosen, offline=True)]
            _tell(recipe, commands, chosen.weights, absent)
        return None
    if files:
        raise _without(path, recipe, files)
    if weights := list(_absent_weights(scorings, chosen, offline=settings.offline)):
        raise ModelNotFoundError(f"{path}: {'; '.join(weights)}")
    if processes.is_first():
        if settings.report is not None:
            prepare_folder(settings.report)
        for make, arguments in zip(recipe.make, commands, strict=True):
            run_step(
                make,
                arguments,
                work=work,
                model=places.model,
                resume=places.resume,
                offline=settings.offline,
            )
    processes.exchange(None)
    if recipe.benchmark is not None:
        chosen = replace(chosen, benchmark=recipe.benchmark.model_dump())
    return run_eval(scorings, [*own, *gates], chosen)


def _scorings(recipe: EvalRecipe) -> list[Scoring]:
    return [
        Scoring(
            name=score.name,
            metrics=score.metrics,
            predictions=score.predictions,
            references=score.references,
            prompts=score.prompts,
            ignore_label=score.ignore_label,
            compat=score.compat,
            samples=score.samples,
            minus=score.minus,
            first_of_each=score.first_of_each,
        )
        for score in recipe.score
    ]


def _weights(path: Path, recipe: EvalRecipe) -> dict[str, str]:
    """Give the recipe's weights of extractors, in the form of the flag."""
    try:
        weights = parse_weights(recipe.weights)
        for text in weights.values():
            source, _, pin = text.partition(",sha256=")
            parse_source(source)
            normalise_pin(pin or None)
    except UsageError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return weights


def _checked_gates(
    path: Path, recipe: EvalRecipe, scorings: Sequence[Scoring], settings: EvalSettings
) -> list[Gate]:
    """Give the recipe's own bounds, once they and the scorings are known to fit together."""
    try:
        own = [
            make_gate(flag, metric_key(score.name, metric), bound)
            for score in recipe.score
            for flag, bounds in (("fail_under", score.fail_under), ("fail_over", score.fail_over))
            for metric, bound in bounds.items()
        ]
        require_fitting(scorings, own, settings)
    except UsageError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return own


def _absent_files(recipe: EvalRecipe, work: Path) -> Iterator[str]:
    """Yield the inputs that are not there and that no step makes."""
    needed = [make.requests for make in recipe.make]
    for score in recipe.score:
        sides = (score.predictions, score.references, score.prompts)
        needed += [side for side in sides if side is not None]
    made = {path for make in recipe.make for path in _made_by(make, work)}
    for path in dict.fromkeys(needed):
        if path not in made and not path.exists():
            yield str(path)


def _made_by(make: MakeSection, work: Path) -> tuple[Path, ...]:
    return (work / make.name, work / f"{make.name}.jsonl")


def _absent_weights(
    scorings: Sequence[Scoring], settings: EvalSettings, *, offline: bool
) -> Iterator[str]:
    """Yield the weights that are neither here nor, unless ``offline``, to be fetched."""
    from llmbind_cli.metrics.extractors import efficientnet_lite
    from llmbind_cli.metrics.extractors.published import locate

    metrics = [metric for scoring in scorings for metric in find_metrics(scoring.metrics)]
    for name in dict.fromkeys(metric.extractor for metric in metrics if metric.extractor):
        try:
            if name == efficientnet_lite.NAME:
                efficientnet_lite.pretrained_state(offline=offline)
            else:
                locate(name, settings.weights, offline=offline)
        except ModelNotFoundError as error:
            yield f"weights of {name}: {error}"


def _without(path: Path, recipe: EvalRecipe, files: Sequence[str]) -> InputDataError:
    listed = "".join(f"\n  {file}" for file in files)
    hint = ""
    if recipe.benchmark is not None:
        layout = "".join(f"\n  {line}" for line in recipe.benchmark.layout)
        hint = f"\nIt is to be had so: {recipe.benchmark.source}\nand --data holds:{layout}"
    return InputDataError(f"{path}: needs what is not there:{listed}{hint}")


def _tell(
    recipe: EvalRecipe,
    commands: Sequence[Sequence[str]],
    weights: Mapping[str, str],
    absent: Sequence[str],
) -> None:
    """Print what a run would do, by which weights that were named, and what it lacks."""
    steps = [f"llmbind {shlex.join(arguments)}" for arguments in commands]
    if console.json:
        told = {
            "benchmark": recipe.benchmark and recipe.benchmark.model_dump(),
            "make": steps,
            "score": [score.model_dump(mode="json") for score in recipe.score],
            "weights": dict(weights),
            "missing": list(absent),
        }
        console.result(json.dumps(told))
        return
    lines = []
    if (card := recipe.benchmark) is not None:
        lines += [card.title]
        facts = {
            "captions": card.captions,
            "preprocessing": card.preprocessing,
            "backbone": card.backbone,
            "source": card.source,
        }
        lines += [f"  {name}: {words}" for name, words in facts.items()]
        lines += [f"  layout: {line}" for line in card.layout]
    lines += [f"make: {step}" for step in steps]
    for score in recipe.score:
        samples = "" if score.samples is None else f", {score.samples} samples"
        beside = "" if score.references is None else f" beside {score.references}"
        minus = "" if score.minus is None else f", minus {score.minus}"
        lines.append(
            f"score {score.name}: {', '.join(score.metrics)} of {score.predictions}{beside}"
            f"{samples}{minus}"
        )
    lines += [f"weights of {name}: {source}" for name, source in weights.items()]
    lines += [f"missing: {line}" for line in absent] or ["nothing is missing"]
    console.result("\n".join(lines))
