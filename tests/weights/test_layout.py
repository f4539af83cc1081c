"""Which files make a model directory, and which directories are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbind_cli.errors import IntegrityError, ModelNotFoundError, PolicyError
from llmbind_cli.weights import layout

PIPELINE = [
    "model_index.json",
    "v1-5-pruned.safetensors",
    "README.md",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "unet/code.py",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.bin.index.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
]


def test_pipeline_files() -> None:
    assert layout.select_weights(PIPELINE) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    assert layout.select_companions(PIPELINE) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    ]


def test_model_files() -> None:
    names = ["config.json", "model.safetensors", "consolidated.safetensors", "onnx/model.json"]
    assert layout.select_weights(names) == ["model.safetensors"]
    assert layout.select_companions(names) == ["config.json"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert layout.select_weights([*shards, "a.safetensors"]) == shards
    assert layout.select_weights(["heads.safetensors", "x/model.safetensors"]) == [
        "heads.safetensors"
    ]


def test_sole_pickle() -> None:
    assert layout.sole_pickle(["config.json", "pytorch_model.bin"]) == "pytorch_model.bin"
    assert layout.sole_pickle(["model.safetensors", "pytorch_model.bin"]) is None
    shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    assert layout.sole_pickle(shards) is None
    assert layout.sole_pickle(["training_args.bin", "optimizer.pt"]) is None
    assert layout.sole_pickle(["model_index.json", "unet/diffusion_pytorch_model.bin"]) is None


def test_a_directory_without_weights_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no \*\.safetensors"):
        layout.require_weights([], ["config.json"], tmp_path, "x")


@pytest.mark.parametrize(
    "names",
    [
        ["pytorch_model.bin"],
        ["model_index.json", "vae/diffusion_pytorch_model.bin", "unet/model.safetensors"],
    ],
)
def test_a_component_with_pickled_weights_alone_is_refused(names: list[str]) -> None:
    weights = layout.select_weights(names)
    with pytest.raises(IntegrityError, match=r"\.bin: pickled weights can run code"):
        layout.require_weights(weights, names, Path("/m"), "/m")


def test_a_missing_shard_is_named(tmp_path: Path, safetensors_bytes: Callable[..., bytes]) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / shards[0]).write_bytes(safetensors_bytes())
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match=shards[1]):
        layout.check_model_directory(tmp_path, [shards[0]])


@pytest.mark.parametrize(("model_type", "refused"), [("mystery", True), ("llama", False)])
def test_remote_code_is_refused_unless_transformers_has_the_class(
    tmp_path: Path, model_type: str, refused: bool
) -> None:
    config = {"model_type": model_type, "auto_map": {"AutoModel": "modeling.Mystery"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if not refused:
        layout.refuse_remote_code(tmp_path, [], "x")
        return
    with pytest.raises(PolicyError, match="'mystery' needs Python code"):
        layout.refuse_remote_code(tmp_path, [], "x")


@pytest.mark.parametrize(
    ("index", "file"),
    [
        ({"_class_name": ["pipeline", "Mystery"]}, "pipeline.py"),
        ({"unet": ["my_unet", "MyUnet"]}, "unet/my_unet.py"),
    ],
)
def test_pipelines_with_code_are_refused(
    tmp_path: Path, index: dict[str, list[str]], file: str
) -> None:
    index["vae"] = ["diffusers", "AutoencoderKL"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    layout.refuse_remote_code(tmp_path, ["example.py"], "x")
    with pytest.raises(PolicyError, match=Path(file).name):
        layout.refuse_remote_code(tmp_path, [file], "x")


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        layout.refuse_remote_code(tmp_path, [], "x")
