"""``llmbind eval``: scores files beside references, and holds the figures against bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmbind_cli.commands import flags
from llmbind_cli.console import console

if TYPE_CHECKING:
    from llmbind_cli.evaluation.gate import Gate
    from llmbind_cli.evaluation.run import EvalSettings

_GATE = "NAME=VALUE"


class Compat(StrEnum):
    """Whose digits overlaps have."""

    lisa = "lisa"


def eval(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE.toml",
            show_default=False,
            help="Evaluation recipe: scorings and bounds.",
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A.json B.json",
            show_default=False,
            help="Compare two reports instead: B minus A.",
        ),
    ] = None,
    allow_different_protocols: Annotated[
        bool,
        typer.Option(
            "--allow-different-protocols",
            help="Compare reports whose figures came about in different ways.",
        ),
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", metavar="NAME", show_default=False, help="What to score; may be repeated."
        ),
    ] = None,
    pred: Annotated[
        Path | None,
        typer.Option(
            "--pred", metavar="PATH", show_default=False, help="Predictions: folder or manifest."
        ),
    ] = None,
    ref: Annotated[
        Path | None,
        typer.Option(
            "--ref", metavar="PATH", show_default=False, help="References: folder or manifest."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE.jsonl",
            show_default=False,
            help="Words to score by, instead of those in a manifest: id, prompt, source.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="NAME=SOURCE",
            show_default=False,
            help="Weights of an extractor: a file, folder or hf:…, then maybe ,sha256=HASH.",
        ),
    ] = None,
    splits: Annotated[
        int,
        typer.Option("--splits", min=1, max=1000, help="Parts of an inception score."),
    ] = 10,
    ignore_label: Annotated[
        int | None,
        typer.Option(
            "--ignore-label",
            metavar="N",
            min=1,
            show_default=False,
            help="Leave out the pixels that have this number in a reference mask.",
        ),
    ] = None,
    compat: Annotated[
        Compat | None,
        typer.Option("--compat", show_default=False, help="Give cIoU and gIoU with LISA's digits."),
    ] = None,
    first_of_each: Annotated[
        bool,
        typer.Option(
            "--first-of-each",
            help="Of several files that a manifest has of a request, score the first.",
        ),
    ] = False,
    extrapolate: Annotated[
        bool,
        typer.Option(
            "--extrapolate",
            help="Also follow each Fréchet distance to infinitely many predictions.",
        ),
    ] = False,
    save_stats: Annotated[
        Path | None,
        typer.Option(
            "--save-stats",
            metavar="FILE.npz",
            show_default=False,
            help="Keep the statistics of --ref's features, as pytorch-fid does.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="DIR",
            show_default=False,
            help="Folder for the report: JSON, Markdown, JUnit XML, HTML and a line for each item.",
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar=_GATE,
            show_default=False,
            help="Exit with 4 if a figure is lower; may be repeated.",
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-over",
            metavar=_GATE,
            show_default=False,
            help="Exit with 4 if a figure of which less is better is higher.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check a recipe and what it needs; run nothing."),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="Folder of the data sets that a recipe names as {data}.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            metavar="DIR",
            show_default=False,
            help="Folder for what a recipe makes; llmbind-eval/NAME if not given.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, max=4096, help="Files that go through an extractor at once."
        ),
    ] = 32,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=256, help="Threads that decode for an extractor."),
    ] = 2,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Keep features, or neither read nor keep any."),
    ] = True,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir",
            metavar="DIR",
            show_default=False,
            help="Folder for features, instead of that of the user's cache.",
        ),
    ] = None,
    cache_size: Annotated[
        float,
        typer.Option("--cache-size", metavar="GIB", help="What all kept features may take."),
    ] = 4.0,
    model: Annotated[
        str, typer.Option("--model", metavar="BUNDLE", help="Bundle that a recipe has make things.")
    ] = flags.EMBEDDED,
    device: Annotated[
        flags.Device, typer.Option("--device", help="Where the extractor of features runs.")
    ] = flags.Device.auto,
    dtype: Annotated[
        flags.Dtype, typer.Option("--dtype", help="No other value: extractors use float32.")
    ] = flags.Dtype.auto,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=flags.LARGEST_SEED,
            show_default=False,
            help="Seed of intervals and subsets; that of the recipe, else 0.",
        ),
    ] = None,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    offline: flags.Offline = False,
    debug: flags.Debug = False,
) -> None:
    """Score files beside references, run evaluation recipes, compare two reports."""
    console.configure(quiet=quiet, json=json, debug=debug)
    if dtype is not flags.Dtype.auto:
        raise typer.BadParameter("extractors use float32", param_hint="--dtype")
    if model != flags.EMBEDDED and recipe is None:
        raise typer.BadParameter("without a recipe no bundle is loaded", param_hint="--model")
    asked = _Asked(
        recipe=recipe,
        compare=compare,
        metric=metric or [],
        pred=pred,
        ref=ref,
        prompts=prompts,
        ignore_label=ignore_label,
        compat=compat.value if compat else None,
        first_of_each=first_of_each,
        save_stats=save_stats,
    )
    mode = asked.mode(dry_run=dry_run, extrapolate=extrapolate)

    from llmbind_cli.evaluation.gate import parse_gate

    gates = [parse_gate("--fail-under", text) for text in fail_under or []]
    gates += [parse_gate("--fail-over", text) for text in fail_over or []]
    if compare is not None:
        from llmbind_cli.evaluation.comparison import run_comparison

        run_comparison(
            *compare,
            gates,
            allow_different=allow_different_protocols,
            seed=seed or 0,
            report=report,
        )
        return

    from llmbind_cli.evaluation.feature_cache import GIB, FeatureCache, default_folder
    from llmbind_cli.evaluation.features import ExtractionSettings
    from llmbind_cli.evaluation.processes import joined
    from llmbind_cli.evaluation.run import EvalSettings
    from llmbind_cli.metrics.extractors.published import parse_weights

    kept = None
    if cache:
        if not math.isfinite(cache_size * GIB):
            raise typer.BadParameter(f"must be finite, got {cache_size}", param_hint="--cache-size")
        budget_bytes = int(cache_size * GIB)
        kept = FeatureCache(folder=cache_dir or default_folder(), budget_bytes=budget_bytes)
    settings = EvalSettings(
        seed=seed or 0,
        device=device.value,
        offline=offline,
        report=report,
        extraction=ExtractionSettings(batch_size=batch_size, workers=workers, cache=kept),
        extrapolate=extrapolate,
        save_statistics=save_stats,
        weights=parse_weights(weights or []),
        splits=splits,
    )
    with joined():
        if mode == "recipe":
            from llmbind_cli.evaluation.recipe_run import RecipeSettings, run_recipe
            from llmbind_cli.recipes.locate import find_recipe

            places = RecipeSettings(
                data=data, work=work, model=model, dry_run=dry_run, seed=seed, resume=cache
            )
            run_recipe(find_recipe(recipe or ""), gates, settings, places)
        else:
            _score(asked, mode, gates, settings)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is to be scored, as the command line says it."""

    recipe: str | None
    compare: tuple[Path, Path] | None
    metric: list[str]
    pred: Path | None
    ref: Path | None
    prompts: Path | None
    ignore_label: int | None
    compat: Literal["lisa"] | None
    first_of_each: bool
    save_stats: Path | None

    def mode(self, *, dry_run: bool, extrapolate: bool) -> Literal["recipe", "score", "statistics"]:
        """Check that the options fit together, and return what they ask for."""
        own: dict[str, object] = {
            "--metric": self.metric,
            "--pred": self.pred,
            "--ref": self.ref,
            "--prompts": self.prompts,
            "--ignore-label": self.ignore_label,
            "--compat": self.compat,
            "--first-of-each": self.first_of_each,
            "--save-stats": self.save_stats,
            "--extrapolate": extrapolate,
        }
        given = [name for name, value in own.items() if value]
        if self.compare is not None:
            if dry_run:
                raise typer.BadParameter("is for recipes, not --compare", param_hint="--dry-run")
            given = [*(["RECIPE.toml"] if self.recipe else []), *given]
            if given:
                raise typer.BadParameter("scores, and --compare does not", param_hint=given[0])
            return "score"
        if self.recipe is not None:
            if given:
                raise typer.BadParameter("the recipe says this", param_hint=given[0])
            return "recipe"
        if dry_run:
            raise typer.BadParameter("needs RECIPE.toml", param_hint="--dry-run")
        if self.metric and self.ref is not None and self.save_stats is not None and not self.pred:
            return "statistics"
        from llmbind_cli.evaluation.metric_table import takes_references

        needed = ["--metric", "--pred", *(["--ref"] if takes_references(self.metric) else [])]
        if missing := [name for name in needed if not own[name]]:
            raise typer.BadParameter(
                "give RECIPE.toml, or --metric, --pred and --ref, or --compare; missing: "
                f"{', '.join(missing)}",
                param_hint="RECIPE.toml",
            )
        return "score"


def _score(asked: _Asked, mode: str, gates: list[Gate], settings: EvalSettings) -> None:
    from llmbind_cli.evaluation.run import Scoring, run_eval
    from llmbind_cli.evaluation.save_statistics import save_statistics

    if mode == "statistics":
        if gates:
            raise typer.BadParameter("there is no figure without --pred", param_hint="--fail-over")
        save_statistics(asked.metric, asked.ref or Path(), settings)
        return
    scoring = Scoring(
        metrics=asked.metric,
        predictions=asked.pred or Path(),
        references=asked.ref,
        prompts=asked.prompts,
        ignore_label=asked.ignore_label,
        compat=asked.compat,
        first_of_each=asked.first_of_each,
    )
    run_eval([scoring], gates, settings)
