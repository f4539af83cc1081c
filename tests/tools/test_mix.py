"""A bundle drawn back towards the one that its training began from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_binding_model import build
from tiny_language_models import save_base

from llmbind_cli.model.bundle_folder import fingerprint
from llmbind_cli.model.checkpoint import save_bundle

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "embedded_bundle"))

from mix import ADAPTER, TOKEN_ROWS, mix

HEADS = "heads.safetensors"


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    """A bundle whose weights and one head are larger by one than those of another; and that."""
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    model = build(save_base(tmp_path / "base", "llama"))
    for bundle in (earlier, later):
        save_bundle(model, bundle, card="# Tiny\n", dtype=torch.bfloat16)
    training = {"steps": 1, "dialogues_seen": 1, "data_sha256": "0", "sources": []}
    training |= {"parameters_trained": 9, "recipe": {"train": {"seed": 0}}}
    config = json.loads((later / "llmbind.json").read_text())
    (later / "llmbind.json").write_text(json.dumps(config | {"training": training}))
    for name in (ADAPTER, HEADS):
        more = {key: tensor + 1 for key, tensor in load_file(later / name).items()}
        save_file(more | ({"other.weight": torch.ones(2)} if name == HEADS else {}), later / name)
    return later, earlier


def test_adapter_and_token_rows_become_a_mean(bundles, tmp_path):
    later, earlier = bundles
    mix(later, earlier, 0.25, tmp_path / "out")
    for name in (ADAPTER, HEADS):
        told, old, new = (load_file(one / name) for one in (tmp_path / "out", earlier, later))
        assert told.keys() == new.keys()
        for key, tensor in told.items():
            assert tensor.dtype == new[key].dtype
            if name == HEADS and not key.startswith(TOKEN_ROWS):
                assert torch.equal(tensor, new[key])
            else:
                mean = old[key].float() * 0.25 + new[key].float() * 0.75
                assert torch.allclose(tensor.float(), mean, rtol=1e-2)
    assert load_file(later / HEADS).keys() - load_file(earlier / HEADS).keys() == {"other.weight"}


def test_the_bundle_tells_what_it_was_mixed_with(bundles, tmp_path):
    later, earlier = bundles
    mix(later, earlier, 0.25, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "llmbind.json").read_text())["training"]["mixed_with"]
    digest = fingerprint(earlier)
    assert told == {"name": f"tiny@{digest[:12]}", "fingerprint": digest, "share": 0.25}
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"a share of 0.25 of those of tiny@{digest[:12]}\n" in card


@pytest.mark.parametrize("share", [0.0, 1.0, 25.0])
def test_a_share_is_between_nothing_and_all(bundles, tmp_path, share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        mix(*bundles, share, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_adapters_are_refused(bundles, tmp_path):
    later, earlier = bundles
    tensors = load_file(earlier / ADAPTER)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, earlier / ADAPTER)
    with pytest.raises(ValueError, match="other adapters"):
        mix(later, earlier, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()
