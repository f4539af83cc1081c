"""The run manifest: what a bundle was trained from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.recipes.schema import Recipe
from llmbind_cli.training.start import Start
from llmbind_cli.weights.atomic import write_atomically

MANIFEST_NAME = "run.json"


def provenance(recipe: Recipe, *, start: Start | None = None) -> dict[str, Any]:
    """Return the recipe as plain values, its files by name only and ``start`` by its name.

    A bundle is passed on; where the files lay on the machine that trained it is not.
    """
    settings = recipe.model_dump(mode="json", exclude={"output"})
    if start is None:
        del settings["model"]["start"]
    else:
        settings["model"]["start"] = start.name
    for source in settings["data"]:
        for key in {"paths", "talk"} & source.keys():
            source[key] = [Path(path).name for path in source[key]]
        for modality, paths in source.get("captions", {}).items():
            source["captions"][modality] = [Path(path).name for path in paths]
    return settings


def write_manifest(path: Path, model: BoundModel) -> None:
    """Write the provenance in the model's configuration as JSON."""
    manifest: dict[str, Any] = {"name": model.config.name, **model.config.training}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))
