"""The run manifest: what a bundle was trained from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.recipes.schema import Recipe
from llmbind_cli.training.start import Start
from llmbind_cli.weights.atomic import write_atomically

MANIFEST_NAME = "run.json"


def provenance(recipe: Recipe, *, start: Start | None = None) -> dict[str, Any]:
    """Return the recipe as plain values, its files by name only and ``start`` by its name.

    A bundle is passed on; where the files lay on the machine that trained it is not.
    """
    settings: dict[str, Any] = to_jsonable_python(_by_name(recipe.model_dump(exclude={"output"})))
    if start is None:
        del settings["model"]["start"]
    else:
        settings["model"]["start"] = start.name
    return settings


def _by_name(value: Any) -> Any:
    """Replace every path in nested settings by its last part."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, dict):
        return {key: _by_name(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_by_name(entry) for entry in value]
    return value


def write_manifest(path: Path, model: BoundModel) -> None:
    """Write the provenance in the model's configuration as JSON."""
    manifest: dict[str, Any] = {"name": model.config.name, **model.config.training}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))
