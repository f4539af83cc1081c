"""The run manifest: a recipe's settings as a bundle passes them on."""

from __future__ import annotations

import json

from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.recipes.locate import shared_folder
from llmbind_cli.training.manifest import provenance


def test_no_folder_of_the_training_machine_is_passed_on(tmp_path):
    """Whatever kind of source it is that names a file."""
    recipe = load_recipe(
        shared_folder("recipes") / "embedded-sight.toml",
        overrides=[
            f'data.0.sprites="{tmp_path}/noto.npz"',
            f'data.0.photos="{tmp_path}/photos"',
            f'data.1.stand_ins="{tmp_path}/photos"',
        ],
    )
    settings = provenance(recipe)
    assert str(tmp_path) not in json.dumps(settings)
    scenes, built, written = settings["data"]
    assert (scenes["sprites"], scenes["photos"]) == ("noto.npz", "photos")
    assert (built["stand_ins"], built["talk"]) == ("photos", ["talk.jsonl"])
    assert written["paths"][0] == "written.jsonl"
    assert settings["optim"] == recipe.optim.model_dump(mode="json")
