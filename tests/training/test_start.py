"""Going on from an earlier bundle."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from llmbind_cli.errors import ConfigurationError, IntegrityError, ModelNotFoundError
from llmbind_cli.training.run import train
from llmbind_cli.training.start import differing


@pytest.fixture
def earlier(recipe, tmp_path):
    """A bundle of the same recipe, trained for five steps."""
    train(recipe, output=tmp_path / "first", overrides=["train.steps=5"])
    return tmp_path / "first" / "bundle"


def adapter_of(bundle):
    return load_file(bundle / "adapter" / "adapter_model.safetensors")


def test_training_goes_on_from_the_weights_of_the_bundle(recipe, tmp_path, earlier):
    # With rates too small to move a weight, the new bundle is the earlier one.
    still = ["train.steps=1", "optim.lr=1e-30", f"model.start='{earlier}'"]
    train(recipe, output=tmp_path / "second", overrides=still)
    before, after = adapter_of(earlier), adapter_of(tmp_path / "second" / "bundle")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = [load_file(b / "heads.safetensors") for b in (earlier, tmp_path / "second" / "bundle")]
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])


@pytest.mark.parametrize(
    "more",
    [
        "lora_moe.layers='all'",
        "lora_moe.target_modules=['gate_proj', 'up_proj', 'down_proj', 'q_proj', 'o_proj']",
    ],
)
def test_linears_that_the_bundle_lacks_start_as_the_base(recipe, tmp_path, earlier, more):
    still = ["train.steps=1", "optim.lr=1e-30", f"model.start='{earlier}'"]
    train(recipe, output=tmp_path / "more", overrides=[*still, more])
    before, after = adapter_of(earlier), adapter_of(tmp_path / "more" / "bundle")
    assert before.keys() < after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    new = [after[name] for name in after.keys() - before.keys() if "lora_B" in name]
    assert new
    assert all(tensor.abs().max() < 1e-29 for tensor in new)  # a step of 1e-30 from zero


def test_the_new_bundle_tells_what_it_continues(recipe, tmp_path, earlier):
    train(
        recipe,
        output=tmp_path / "second",
        overrides=["train.steps=1", f"model.start='{earlier}'"],
    )
    manifest = json.loads((tmp_path / "second" / "run.json").read_text())
    assert manifest["start"]["name"].startswith("tiny@")
    differs = manifest["start"]["differs"]
    assert differs["/steps"] == 5
    assert differs["/recipe/model/start"] is None
    assert "/recipe/optim/lr" not in differs
    assert manifest["recipe"]["model"]["start"] == manifest["start"]["name"]
    card = (tmp_path / "second" / "bundle" / "README.md").read_text()
    assert f"Continues the training of {manifest['start']['name']}" in card


def test_only_what_an_earlier_training_had_otherwise_is_told():
    earlier = {"steps": 5, "recipe": {"data": [{"seed": 1, "kind": "x"}], "a/b~": 2, "same": [3]}}
    later = {"steps": 5, "recipe": {"data": [{"seed": 4, "kind": "x"}, {"seed": 5}], "same": [3]}}
    assert differing(earlier, later) == {
        "/recipe/data/0/seed": 1,
        "/recipe/data/1": None,
        "/recipe/a~1b~0": 2,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora_moe.rank=4", "r: 4, there 2"),
        ("lora_moe.layers=[0]", "layers_to_transform"),
        ("lora_moe.target_modules=['gate_proj', 'up_proj']", "target_modules"),
        ("tokens.tasks=['image']", "task tokens"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_another_model_than_the_recipes_is_refused(
    recipe, tmp_path, earlier, override, message, dry_run
):
    with pytest.raises(ConfigurationError, match=message):
        train(
            recipe,
            output=tmp_path / "second",
            overrides=[override, f"model.start='{earlier}'"],
            dry_run=dry_run,
        )


def test_a_start_that_is_missing_or_damaged_is_refused(recipe, tmp_path, earlier):
    output = tmp_path / "second"
    with pytest.raises(ModelNotFoundError, match="no bundle here"):
        train(recipe, output=output, overrides=[f"model.start='{tmp_path}/nowhere'"])
    weights = earlier / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="adapter_model"):
        train(recipe, output=output, overrides=[f"model.start='{earlier}'"])


def test_resuming_with_another_start_is_refused(recipe, tmp_path, earlier):
    train(recipe, output=tmp_path / "other", overrides=["train.steps=6"])
    output = tmp_path / "second"
    train(recipe, output=output, overrides=["train.steps=10", f"model.start='{earlier}'"])
    other = tmp_path / "other" / "bundle"
    with pytest.raises(ConfigurationError, match=r"model\.start was 'tiny@"):
        train(
            recipe,
            output=output,
            overrides=["train.steps=10", f"model.start='{other}'"],
            resume=True,
        )
