"""Save and load of bundles: identical logits, and refusal of everything that does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_binding_model import build
from tiny_language_models import save_base

from llmbind_cli.errors import IntegrityError, ModelNotFoundError, UnavailableError
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.model.loader import load_model


@pytest.fixture
def saved(bound, tmp_path):
    save_bundle(bound, tmp_path / "bundle", card="# Tiny\n")
    return tmp_path / "bundle"


def logits(model, ids):
    with torch.inference_mode():
        return model.language_model(torch.tensor([ids])).logits


def test_save_then_load_gives_identical_logits(bound, saved):
    ids = [*bound.tokenizer("draw a red apple")["input_ids"], *bound.token_table.ids.values()]
    loaded = load_model(str(saved), device="cpu", dtype="float32")
    assert torch.equal(logits(loaded, ids), logits(bound, ids))
    assert loaded.token_table.ids == bound.token_table.ids
    assert len(loaded.fingerprint) == 64


def test_a_16_bit_bundle_loads_to_the_rounded_weights(bound, tmp_path):
    save_bundle(bound, tmp_path / "b", card="", dtype=torch.bfloat16)
    for parameter in bound.language_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16().float()
    loaded = load_model(str(tmp_path / "b"), device="cpu", dtype="float32")
    ids = list(range(20))
    assert torch.equal(logits(loaded, ids), logits(bound, ids))


def test_the_frozen_base_is_not_touched(base, bound):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base)
    for name, parameter in bound.language_model.named_parameters():
        if not parameter.requires_grad:
            original = name.replace("base_layer.", "")
            assert torch.equal(parameter, plain.get_parameter(original)), name


def test_only_adapters_and_token_rows_train(bound):
    trained = [n for n, p in bound.language_model.named_parameters() if p.requires_grad]
    assert trained
    kinds = ("lora_A", "lora_B", "router.weight", "rows")
    assert all(name.endswith(kinds) for name in trained), trained


def change_config(bundle, change):
    path = bundle / "llmbind.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_a_bundle_for_a_base_of_another_shape_is_refused(saved):
    change_config(saved, lambda f: f["language_model"].update(vocab_size=7))
    with pytest.raises(IntegrityError, match=r"base with vocabulary and width \(7, 32\)"):
        load_model(str(saved))


def test_a_base_with_other_weights_is_refused(saved, tmp_path):
    other = save_base(tmp_path / "other", "llama", seed=1)
    change_config(saved, lambda f: f["language_model"].update(source=str(other)))
    with pytest.raises(IntegrityError, match="sha256"):
        load_model(str(saved))


def test_an_adapter_for_other_base_weights_is_refused(saved):
    path = saved / "adapter" / "adapter_config.json"
    fields = json.loads(path.read_text())
    assert fields["base_model_sha256"]
    path.write_text(json.dumps(fields | {"base_model_sha256": "0" * 64}))
    with pytest.raises(IntegrityError, match="adapter was made for base weights with sha256 000"):
        load_model(str(saved))


def test_a_missing_task_token_is_refused(saved):
    path = saved / "tokenizer.json"
    text = path.read_text()
    path.write_text(text.replace('"<vid_cap>"', '"<movie>"'))
    with pytest.raises(IntegrityError, match="<vid_cap>"):
        load_model(str(saved))


def test_nan_and_missing_rows_are_refused(saved):
    path = saved / "heads.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(IntegrityError, match=f"{name} contains NaN"):
        load_model(str(saved))
    save_file({"other": tensors[name]}, path)
    with pytest.raises(IntegrityError, match=f"{name} is missing; .*other is unexpected"):
        load_model(str(saved))


def test_truncated_and_pickled_weights_are_refused(saved):
    path = saved / "heads.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(IntegrityError, match=r"heads\.safetensors"):
        load_model(str(saved))
    path.write_bytes(content)
    adapter = saved / "adapter" / "adapter_model.safetensors"
    adapter.rename(adapter.with_name("adapter_model.bin"))
    with pytest.raises((IntegrityError, ModelNotFoundError), match="adapter_model"):
        load_model(str(saved))


def test_an_unknown_format_version_is_refused(saved):
    change_config(saved, lambda f: f.update(format_version=99))
    with pytest.raises(IntegrityError, match="bundle format 99"):
        load_model(str(saved))


def test_a_directory_without_a_bundle_is_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"llmbind\.json is missing"):
        load_model(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_refused_not_replaced(saved):
    with pytest.raises(UnavailableError, match="no CUDA device"):
        load_model(str(saved), device="cuda")


def test_quantised_loading_needs_cuda(saved):
    with pytest.raises(UnavailableError, match="int4 needs a CUDA device"):
        load_model(str(saved), device="cpu", dtype="int4")


def test_a_failed_save_keeps_the_older_bundle(bound, saved, monkeypatch):
    from llmbind_cli.model import checkpoint

    before = {p.name: p.stat().st_mtime_ns for p in saved.iterdir()}
    monkeypatch.setattr(checkpoint, "save_adapter", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_bundle(bound, saved, card="")
    assert {p.name: p.stat().st_mtime_ns for p in saved.iterdir()} == before
    load_model(str(saved))


def test_two_seeds_give_two_models_and_one_seed_one(base):
    one, same, other = (build(base, seed=seed) for seed in (0, 0, 1))
    ids = list(range(20))
    assert torch.equal(logits(one, ids), logits(same, ids))
    assert not torch.equal(logits(one, ids), logits(other, ids))
