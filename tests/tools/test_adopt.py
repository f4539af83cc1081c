"""Which bundle keeps the figures of the one before."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "embedded_bundle"))

from adopt import WRITING, writes_alike


@pytest.fixture
def bundles(tmp_path):
    """Two bundles that are the same."""
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "adapter").mkdir(parents=True)
    for name in WRITING:
        (one / name).write_text("{}")
    (one / "llmbind.json").write_text('{"mask_decoder": {"width": 8}, "vision_tower": {"side": 8}}')
    save_file({"a": torch.zeros(2)}, one / "adapter" / "adapter_model.safetensors")
    heads = ("projector.weight", "mask_decoder.weight", "prompt_projection.weight", "token_rows")
    save_file({name: torch.zeros(2) for name in heads}, one / "heads.safetensors")
    shutil.copytree(one, other)
    return one, other


def change(path, name):
    tensors = load_file(path)
    save_file(tensors | {name: torch.ones(2)}, path)


@pytest.mark.parametrize(
    ("file", "name", "alike"),
    [
        ("heads.safetensors", "mask_decoder.weight", True),
        ("heads.safetensors", "mask_decoder.more", True),
        ("heads.safetensors", "prompt_projection.weight", True),
        ("heads.safetensors", "projector.weight", False),
        ("heads.safetensors", "token_rows", False),
        ("adapter/adapter_model.safetensors", "a", False),
    ],
)
def test_a_bundle_that_differs_in_its_masks_alone_writes_alike(bundles, file, name, alike):
    one, other = bundles
    assert writes_alike(one, other)
    change(one / file, name)
    assert writes_alike(one, other) is alike


@pytest.mark.parametrize(
    ("file", "key", "alike"),
    [
        ("llmbind.json", "mask_decoder", True),
        ("llmbind.json", "mask_filter", True),
        ("llmbind.json", "vision_tower", False),
        ("llmbind.json", "object_tokens", False),
        ("adapter/adapter_config.json", "top_k", False),
        ("tokenizer.json", "model", False),
    ],
)
def test_so_does_one_that_is_configured_alike(bundles, file, key, alike):
    one, other = bundles
    config = json.loads((one / file).read_text())
    (one / file).write_text(json.dumps(config | {key: 1}))
    assert writes_alike(one, other) is alike


def test_a_new_setting_that_is_off_is_what_saying_nothing_means(bundles):
    one, other = bundles
    config = json.loads((one / "llmbind.json").read_text())
    (one / "llmbind.json").write_text(json.dumps(config | {"object_tokens": None}))
    assert writes_alike(one, other)


def test_where_there_is_no_bundle_yet_nothing_is_alike(bundles, tmp_path):
    assert not writes_alike(bundles[0], tmp_path / "none")
