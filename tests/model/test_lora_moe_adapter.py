"""Where LoRA-MoE goes in real architectures, and what its files keep, refuse and promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmbind_cli.errors import ConfigurationError, IntegrityError, ModelNotFoundError
from llmbind_cli.model.lora_moe_adapter import (
    LoraMoeConfig,
    adapter_state_dict,
    inject_lora_moe,
    load_adapter,
    save_adapter,
)
from llmbind_cli.nn.lora_moe import LoraMoeLinear
from llmbind_cli.nn.router import Router, collect_router_probs

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
KEY = "base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight"


def make_base(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def make_adapted(**options: object) -> nn.Module:
    """A model whose experts already do something."""
    model = inject_lora_moe(make_base(), LoraMoeConfig(r=2, **options))
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, LoraMoeLinear):
            nn.init.normal_(layer.lora_B)
            nn.init.normal_(layer.router.weight)
    return model


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        output: Tensor = model(input_ids=torch.arange(20).view(2, 10)).logits
    return output


def adapted_names(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, LoraMoeLinear)]


@pytest.mark.parametrize(
    ("model_class", "config_class"),
    [
        (LlamaForCausalLM, LlamaConfig),
        (MistralForCausalLM, MistralConfig),
        (Qwen2ForCausalLM, Qwen2Config),
        (LlamaModel, LlamaConfig),
    ],
)
def test_every_second_layer_of_each_family(model_class: type, config_class: type) -> None:
    model = model_class(config_class(**SIZES))
    result = inject_lora_moe(model, LoraMoeConfig(r=2))
    assert result is model
    stem = "" if model_class is LlamaModel else "model."
    assert adapted_names(model) == [
        f"{stem}layers.{i}.mlp.{name}"
        for i in (1, 3)
        for name in ("gate_proj", "up_proj", "down_proj")
    ]
    assert model.peft_config["default"].layers_to_transform == [1, 3]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 6 * 3
    assert all("lora_" in name or "router" in name for name in trainable)


@pytest.mark.parametrize(
    ("options", "layers"),
    [({"every": 1}, [0, 1, 2, 3]), ({"every": 3}, [2]), ({"layers_to_transform": [0, 3]}, [0, 3])],
)
def test_layer_rules(options: dict[str, object], layers: list[int]) -> None:
    model = inject_lora_moe(make_base(), LoraMoeConfig(target_modules=["up_proj"], **options))
    assert adapted_names(model) == [f"model.layers.{i}.mlp.up_proj" for i in layers]


def test_fresh_adapter_is_exactly_the_base_model() -> None:
    base = logits(make_base())
    assert torch.equal(logits(inject_lora_moe(make_base(), LoraMoeConfig())), base)
    assert not torch.allclose(logits(make_adapted()), base, atol=1e-2)


def test_modules_without_layer_numbers() -> None:
    model = nn.Sequential()
    model.add_module("up_proj", nn.Linear(4, 4))
    inject_lora_moe(model, LoraMoeConfig(target_modules=["up_proj"]))
    assert adapted_names(model) == ["up_proj"]
    assert model.peft_config["default"].layers_to_transform is None


@pytest.mark.parametrize("target_modules", [["gate_proj", "up_proj", "down_proj"], ["down_proj"]])
def test_block_router_is_one_per_block_and_routes_by_its_input(target_modules: list[str]) -> None:
    model = make_adapted(router="block", target_modules=target_modules)
    routers = {id(m) for m in model.modules() if isinstance(m, Router)}
    assert len(routers) == 2
    keys = [key for key in adapter_state_dict(model) if "router" in key]
    assert keys == [f"base_model.model.model.layers.{i}.mlp.router.weight" for i in (1, 3)]
    inputs: list[Tensor] = []
    block = model.model.layers[1].mlp
    block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with collect_router_probs(model) as record:
        logits(model)
    assert len(record) == 2
    with torch.inference_mode():
        expected = torch.softmax(inputs[0] @ block.down_proj.router.weight.T, dim=-1)
        torch.testing.assert_close(record.probs()[0], expected)


def test_attention_blocks_pass_their_input_by_keyword() -> None:
    model = make_adapted(router="block", target_modules=["q_proj", "o_proj"])
    with collect_router_probs(model) as record:
        logits(model)
    assert len(record) == 2


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("router", ["linear", "block"])
def test_training_with_the_models_own_checkpointing(router: str, use_reentrant: bool) -> None:
    def gradients(*, checkpointing: bool) -> list[Tensor]:
        model = make_adapted(router=router).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        ids = torch.arange(20).view(2, 10)
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    for pair in zip(gradients(checkpointing=True), gradients(checkpointing=False), strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("router", ["linear", "block"])
@pytest.mark.parametrize("top_k", [0, 2])
def test_saved_and_loaded_models_answer_alike(tmp_path: Path, top_k: int, router: str) -> None:
    model = make_adapted(top_k=top_k, router=router, base_model_name_or_path="some/base")
    save_adapter(model, tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = load_adapter(make_base(), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(model))
    config = loaded.peft_config["default"]
    assert config == model.peft_config["default"]
    assert config.layers_to_transform == [1, 3]
    assert config.base_model_name_or_path == "some/base"
    trained = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}


def test_saving_in_bf16_rounds_once(tmp_path: Path) -> None:
    model = make_adapted()
    save_adapter(model, tmp_path, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    loaded = adapter_state_dict(load_adapter(make_base(), tmp_path))
    for key, tensor in adapter_state_dict(model).items():
        assert loaded[key].dtype == torch.float32
        assert torch.equal(loaded[key], tensor.bfloat16().float())


def test_file_keys_and_shapes(tmp_path: Path) -> None:
    save_adapter(make_adapted(), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 6 * 3
    stem = "base_model.model.model.layers.3.mlp.down_proj"
    shapes = {key: tuple(t.shape) for key, t in tensors.items() if key.startswith(stem)}
    assert shapes == {
        f"{stem}.lora_A.weight": (8, 24),
        f"{stem}.lora_B.weight": (16, 8),
        f"{stem}.router.weight": (4, 24),
    }


def test_plain_peft_refuses_the_directory(tmp_path: Path) -> None:
    save_adapter(make_adapted(), tmp_path)
    for load in (
        lambda: PeftConfig.from_pretrained(tmp_path),
        lambda: LoraConfig.from_pretrained(tmp_path),
        lambda: PeftModel.from_pretrained(make_base(), tmp_path),
    ):
        with pytest.raises(KeyError, match="LORA_MOE"):
            load()
    assert LoraMoeConfig.from_pretrained(tmp_path).r == 2


def test_plain_lora_is_refused(tmp_path: Path) -> None:
    LoraConfig(r=2, target_modules=["up_proj"]).save_pretrained(tmp_path)
    with pytest.raises(IntegrityError, match=r"peft_type must be LORA_MOE, got 'LORA'"):
        load_adapter(make_base(), tmp_path)


def edit_tensors(directory: Path, edit: object) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(KEY), f"{KEY} is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is unexpected"),
        (lambda t: t.update({KEY: torch.zeros(8, 15)}), rf"{KEY} has shape \(8, 15\), expected"),
        (lambda t: t[KEY][0].fill_(float("nan")), f"{KEY} contains NaN or infinity"),
        (lambda t: t[KEY][0].fill_(float("inf")), f"{KEY} contains NaN or infinity"),
        (lambda t: t.update({KEY: t[KEY].int()}), rf"{KEY} has dtype torch.int32"),
    ],
)
def test_faulty_tensors_are_named_and_leave_the_base_alone(
    tmp_path: Path, edit: object, message: str
) -> None:
    save_adapter(make_adapted(), tmp_path)
    edit_tensors(tmp_path, edit)
    base = make_base()
    with pytest.raises(IntegrityError, match=message):
        load_adapter(base, tmp_path)
    assert not adapted_names(base)


def test_damaged_or_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"adapter_config\.json: no adapter here"):
        load_adapter(make_base(), tmp_path)
    save_adapter(make_adapted(), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(IntegrityError, match="truncated"):
        load_adapter(make_base(), tmp_path)
    weights.unlink()
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        load_adapter(make_base(), tmp_path)
    weights.write_bytes(whole)
    config = tmp_path / "adapter_config.json"
    fields = json.loads(config.read_text())
    for text in ("{", "[]", json.dumps(fields | {"r": 0}), json.dumps(fields | {"new": 1})):
        config.write_text(text)
        with pytest.raises(IntegrityError, match="not a LoRA-MoE configuration"):
            load_adapter(make_base(), tmp_path)


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    save_adapter(make_adapted(base_model_sha256="a" * 64), tmp_path)
    with pytest.raises(IntegrityError, match="made for base weights with sha256 aaa"):
        load_adapter(make_base(), tmp_path, base_sha256="b" * 64)
    assert load_adapter(make_base(), tmp_path, base_sha256="a" * 64)
    wider = LlamaForCausalLM(LlamaConfig(**(SIZES | {"intermediate_size": 32})))
    with pytest.raises(
        IntegrityError, match=r"lora_B.weight has shape \(24, 8\), expected \(32, 8\)"
    ):
        load_adapter(wider, tmp_path)
    shallower = LlamaForCausalLM(LlamaConfig(**(SIZES | {"num_hidden_layers": 2})))
    with pytest.raises(IntegrityError, match=r"does not fit this base: .* in layers \[3\]"):
        load_adapter(shallower, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_modules": ["gate_proj", "fc1"]},
            r"no module is called fc1 \(tried gate_proj, fc1\); the model's linears are called "
            "down_proj, gate_proj",
        ),
        ({"target_modules": ["mlp"]}, "mlp is a LlamaMLP, not nn.Linear"),
        ({"layers_to_transform": [1, 9]}, r"in layers \[9\]; .* in layers \[0, 1, 2, 3\]"),
        ({"every": 5}, r"every = 5 leaves none of the layers \[0, 1, 2, 3\]"),
    ],
)
def test_a_selection_that_selects_nothing_is_refused(
    options: dict[str, object], message: str
) -> None:
    model = make_base()
    with pytest.raises(ConfigurationError, match=message):
        inject_lora_moe(model, LoraMoeConfig(**options))
    assert not adapted_names(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be ≥ 1, got 0"),
        ({"lora_alpha": 0}, "lora_alpha must be > 0"),
        ({"num_experts": 0, "top_k": 0}, "num_experts must be ≥ 1"),
        ({"top_k": 5}, "top_k must be between 0 and num_experts, got 5"),
        ({"lora_dropout": 1.0}, "lora_dropout must be in"),
        ({"router": "token"}, "router must be linear or block, got 'token'"),
        ({"target_modules": []}, "target_modules must be a list"),
        ({"target_modules": "gate_proj"}, "target_modules must be a list"),
        ({"layers_to_transform": []}, "layers_to_transform must be None or"),
        ({"every": 0}, "every must be ≥ 1"),
    ],
)
def test_bad_fields_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LoraMoeConfig(**options)


def test_no_second_adapter_and_nothing_to_save(tmp_path: Path) -> None:
    model = make_adapted()
    save_adapter(model, tmp_path)
    with pytest.raises(ConfigurationError, match="already has LoRA-MoE"):
        inject_lora_moe(model, LoraMoeConfig())
    with pytest.raises(ConfigurationError, match="already has LoRA-MoE"):
        load_adapter(model, tmp_path)
    with pytest.raises(ConfigurationError, match="no LoRA-MoE layers to save"):
        save_adapter(make_base(), tmp_path / "none")
