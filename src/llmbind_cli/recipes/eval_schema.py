"""The evaluation recipe: what is made, what is scored by which metrics, which bounds hold."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.recipes.load import read_toml
from llmbind_cli.recipes.section import FilePath, Section

Bounds = dict[str, float]


class BenchmarkSection(Section):
    """``[benchmark]``: what a shipped recipe measures, in words. A report carries it.

    Attributes:
        title: Name of the data set and split, or of the suite.
        source: Where the data is from, and how to bring it into the layout.
        layout: The files that ``{data}`` must hold.
        captions: Which of several captions or expressions of an item count.
        preprocessing: What is done to pictures, sounds or clips before they are scored.
        backbone: The networks that figures are taken with.
        published: Figures of papers under this protocol, as they print them.
    """

    title: str
    source: str
    layout: Annotated[list[str], Field(min_length=1)]
    captions: str
    preprocessing: str
    backbone: str
    published: list[str] = Field(default_factory=list)


class MakeSection(Section):
    """``[[make]]``: what a bundle makes before anything is scored.

    Attributes:
        name: The folder ``{work}/NAME``, or for plans the file ``{work}/NAME.jsonl``.
        kind: ``plan`` decides only; the others are the commands of that name.
        requests: File of requests, one a line.
        direct: Hand the words to the generator of the modality as they are.
        modality: What is made; ``None`` lets the model choose.
        max_new_tokens: Longest reply.
        batch_size: Requests decided at once; ``edit`` takes none.
        router_load: Add to each line of a plan which experts its request went to.
        teacher_forced: Take each request's own ``reply`` for the model's, as LISA scores masks.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    kind: Literal["plan", "generate", "edit", "segment"]
    requests: FilePath
    direct: bool = False
    modality: Literal["image", "video", "audio"] | None = None
    max_new_tokens: int | None = Field(default=None, ge=1, le=4096)
    batch_size: int = Field(default=16, ge=1, le=1024)
    router_load: bool = False
    teacher_forced: bool = False

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if (self.direct or self.modality) and self.kind != "generate":
            raise ValueError("direct and modality are for kind = 'generate'")
        if self.direct and self.modality is None:
            raise ValueError("direct needs a modality")
        if self.router_load and self.kind != "plan":
            raise ValueError("router_load is for kind = 'plan'")
        if self.kind == "edit" and "batch_size" in self.model_fields_set:
            raise ValueError("batch_size is not for kind = 'edit'")
        if self.teacher_forced and self.kind != "segment":
            raise ValueError("teacher_forced is for kind = 'segment'")
        return self


class ScoreSection(Section):
    """``[[score]]``: one pair of inputs.

    Attributes:
        name: Stands before the names of its figures, as in ``masks/cIoU``.
        metrics: Names of metrics.
        predictions: Folder or manifest; a relative path starts at the recipe's folder, ``{work}``
            is the folder of what was made, ``{data}`` that of the data sets.
        references: Likewise; ``None`` for metrics that need none.
        prompts: File of the words that media are scored by; ``None``: those of the manifest.
        samples: How many predictions there must be; ``None``: any number.
        compat: Whose digits overlaps have.
        minus: Another scoring, whose figures are subtracted from those of this one.
        first_of_each: Of several files that a request made, score the first.
        ignore_label: Number of the reference pixels that masks are not scored on.
        fail_under: Metric → least value, for metrics of which more is better.
        fail_over: Metric → greatest value, for metrics of which less is better.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    metrics: Annotated[list[str], Field(min_length=1)]
    predictions: FilePath
    references: FilePath | None = None
    prompts: FilePath | None = None
    samples: int | None = Field(default=None, ge=1)
    compat: Literal["lisa"] | None = None
    minus: str | None = None
    first_of_each: bool = False
    ignore_label: int | None = Field(default=None, ge=1)
    fail_under: Bounds = Field(default_factory=dict)
    fail_over: Bounds = Field(default_factory=dict)


class EvalRecipe(Section):
    """A whole evaluation recipe.

    Attributes:
        seed: Of bootstrap intervals and random subsets, and of what is made.
        weights: Of extractors: name → ``SOURCE`` or ``SOURCE,sha256=HASH``, as ``--weights`` takes
            them; a path starts where that of ``predictions`` does.
        benchmark: What it measures, in words.
        make: What is made first; names differ.
        score: The scorings; their names differ.
    """

    seed: int = Field(default=0, ge=0)
    weights: dict[str, str] = Field(default_factory=dict)
    benchmark: BenchmarkSection | None = None
    make: list[MakeSection] = Field(default_factory=list)
    score: Annotated[list[ScoreSection], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        names = [score.name for score in self.score]
        for listed in (names, [make.name for make in self.make]):
            if twice := sorted({name for name in listed if listed.count(name) > 1}):
                raise ValueError(f"names must differ, got {', '.join(twice)} more than once")
        for score in self.score:
            if score.minus is not None and (score.minus not in names or score.minus == score.name):
                raise ValueError(f"minus must name another scoring, got {score.minus}")
        return self


def load_eval_recipe(
    path: Path, *, data: Path = Path("{data}"), work: Path = Path("{work}")
) -> EvalRecipe:
    """Read and check an evaluation recipe.

    Args:
        path: The TOML file.
        data: What stands for ``{data}`` in its paths.
        work: What stands for ``{work}``.

    Returns:
        The recipe, with relative paths made to start at its folder.

    Raises:
        ConfigurationError: It cannot be read, is no TOML, or is wrong: one line for each error.
    """
    table = read_toml(path)
    try:
        recipe = EvalRecipe.model_validate(table)
    except ValidationError as error:
        lines = [_describe(details) for details in error.errors(include_url=False)]
        if len(lines) == 1:
            raise ConfigurationError(f"{path}: {lines[0]}") from error
        listed = "".join(f"\n  {line}" for line in lines)
        raise ConfigurationError(f"{path}: {len(lines)} errors{listed}") from error
    places = {"{data}": data, "{work}": work}

    def placed(section: ScoreSection | MakeSection, *names: str) -> dict[str, Path | None]:
        paths = {name: getattr(section, name) for name in names}
        return {
            name: p if p is None else _placed(p, path.parent, places) for name, p in paths.items()
        }

    scores = [
        score.model_copy(update=placed(score, "predictions", "references", "prompts"))
        for score in recipe.score
    ]
    makes = [make.model_copy(update=placed(make, "requests")) for make in recipe.make]
    weights = {
        name: _placed_source(source, path.parent, places) for name, source in recipe.weights.items()
    }
    return recipe.model_copy(update={"weights": weights, "score": scores, "make": makes})


def _placed(path: Path, folder: Path, places: dict[str, Path]) -> Path:
    first, *rest = path.parts
    return places[first].joinpath(*rest) if first in places else folder / path


def _placed_source(text: str, folder: Path, places: dict[str, Path]) -> str:
    """Place what is a path; a source in a registry, and one that is empty, stay as they are."""
    source, comma, pin = text.partition(",sha256=")
    if not source or source.startswith(("hf:", "pypi:")):
        return text
    return f"{_placed(Path(source).expanduser(), folder, places)}{comma}{pin}"


def _describe(details: ErrorDetails) -> str:
    key = ".".join(str(step) for step in details["loc"])
    if details["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(key)}"
    if details["type"] == "missing":
        return f"{key} is required"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {message}, got {details['input']!r}" if key else message


def _nearest(key: str) -> str:
    sections: dict[str, type[BaseModel]] = {
        "score": ScoreSection,
        "make": MakeSection,
        "benchmark": BenchmarkSection,
    }
    table = sections.get(key.partition(".")[0], EvalRecipe) if "." in key else EvalRecipe
    known = list(table.model_fields)
    close = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
