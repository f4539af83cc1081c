"""The evaluation recipe: which files are scored, by which metrics, and which bounds they keep."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.recipes.load import read_toml
from llmbind_cli.recipes.schema import FilePath, Section

Bounds = dict[str, float]


class ScoreSection(Section):
    """``[[score]]``: one pair of inputs.

    Attributes:
        name: Stands before the names of its figures, as in ``masks/cIoU``.
        metrics: Names of metrics.
        predictions: Folder or manifest; a relative path starts at the recipe's folder.
        references: Likewise.
        ignore_label: Number of the reference pixels that masks are not scored on.
        fail_under: Metric → least value, for metrics of which more is better.
        fail_over: Metric → greatest value, for metrics of which less is better.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    metrics: Annotated[list[str], Field(min_length=1)]
    predictions: FilePath
    references: FilePath
    ignore_label: int | None = Field(default=None, ge=1)
    fail_under: Bounds = Field(default_factory=dict)
    fail_over: Bounds = Field(default_factory=dict)


class EvalRecipe(Section):
    """A whole evaluation recipe.

    Attributes:
        seed: Of bootstrap intervals and random subsets.
        score: The scorings; their names differ.
    """

    seed: int = Field(default=0, ge=0)
    score: Annotated[list[ScoreSection], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        names = [score.name for score in self.score]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must differ, got {', '.join(twice)} more than once")
        return self


def load_eval_recipe(path: Path) -> EvalRecipe:
    """Read and check an evaluation recipe.

    Args:
        path: The TOML file.

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
    folder = path.parent
    scores = [
        score.model_copy(
            update={
                "predictions": folder / score.predictions,
                "references": folder / score.references,
            }
        )
        for score in recipe.score
    ]
    return recipe.model_copy(update={"score": scores})


def _describe(details: ErrorDetails) -> str:
    key = ".".join(str(step) for step in details["loc"])
    if details["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(key)}"
    if details["type"] == "missing":
        return f"{key} is required"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {message}, got {details['input']!r}" if key else message


def _nearest(key: str) -> str:
    table: type[BaseModel] = ScoreSection if "." in key else EvalRecipe
    known = list(table.model_fields)
    close = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
