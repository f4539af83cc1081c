"""A small base, dialogues and a recipe to train on in seconds."""

from __future__ import annotations

import json

import pytest
from tiny_language_models import save_base

RECIPE = """
[model]
base = "{base}"
dtype = "float32"
[lora_moe]
num_experts = 3
rank = 2
[[data]]
name = "talk"
kind = "conversations"
paths = ["talk.jsonl"]
[optim]
lr = 1e-2
warmup_steps = 2
[train]
steps = 20
batch_size = 4
accumulation = 2
checkpoint_every = 10
log_every = 5
[output]
dir = "run"
name = "tiny"
"""
THINGS = ["red apple", "cat", "waves", "cloud", "picture of a cat", "apple and a cat"]


@pytest.fixture(scope="session")
def trained_base(tmp_path_factory):
    """The base that the runs of this folder train on."""
    return save_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture
def recipe(tmp_path, trained_base, monkeypatch):
    """The path of a recipe whose data lie beside it."""
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    with (tmp_path / "talk.jsonl").open("w") as lines:
        for number in range(24):
            thing = THINGS[number % len(THINGS)]
            asked, said = (
                (f"draw a {thing}", f"Here: <gen>a {thing}</gen>")
                if number % 2
                else (f"is a {thing} red?", f"Rain falls on a {thing}.")
            )
            turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
            lines.write(json.dumps({"id": str(number), "conversations": turns}) + "\n")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(base=trained_base))
    return path
