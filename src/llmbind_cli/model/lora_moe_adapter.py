"""LoRA-MoE as a PEFT method: its configuration, injection into a model, saving and loading.

The layer itself is :class:`~llmbind_cli.nn.lora_moe.LoraMoeLinear`; this module decides where it
goes. It follows PEFT in the configuration class, in how names select modules and in the two files
of an adapter directory. It does not register itself with PEFT, whose list of methods is closed:
plain PEFT therefore refuses such a directory (``LORA_MOE`` is unknown to it) instead of reading it
as plain LoRA.

Tensor names in ``adapter_model.safetensors`` are those PEFT gives a LoRA, with all experts of a
linear stacked in one tensor (``N`` experts of rank ``r``, widths ``Di`` and ``Do``):

    base_model.model.{linear}.lora_A.weight   [N r, Di]
    base_model.model.{linear}.lora_B.weight   [Do, N r]
    base_model.model.{linear}.router.weight   [N, Di]   router = "linear"
    base_model.model.{block}.router.weight    [N, D]    router = "block"
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, Self

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save
from torch import Tensor, nn

from llmbind_cli.errors import ConfigurationError, IntegrityError, ModelNotFoundError
from llmbind_cli.nn.lora_moe import LoraMoeLinear
from llmbind_cli.nn.router import Router, routing_dtype
from llmbind_cli.weights.atomic import write_atomically
from llmbind_cli.weights.hashes import check_safetensors
from llmbind_cli.weights.tensors import check_tensors

PEFT_TYPE = "LORA_MOE"
ADAPTER_NAME = "default"
KEY_PREFIX = "base_model.model."


@dataclasses.dataclass
class LoraMoeConfig(PeftConfig):
    """Configuration of a LoRA-MoE adapter; its fields are those of ``adapter_config.json``.

    Attributes:
        r: Rank of one expert.
        lora_alpha: α; the experts' sum is scaled by α/r.
        num_experts: Number N of experts.
        top_k: Experts kept per token; 0 or ``num_experts`` means dense gating.
        lora_dropout: Probability in [0, 1) of dropping an input feature of the low-rank path.
        router: ``linear`` for one router per linear, ``block`` for one per block, that is per
            module that directly holds adapted linears, routed by that module's input.
        target_modules: Last parts of the names of the linears to adapt.
        layers_to_transform: Decoder layers to adapt, from 0. None lets ``every`` choose; the
            configuration of an adapted model, and so the saved one, always lists them.
        every: Adapt every n-th decoder layer, the last of each group of n: 2 adapts layers
            1, 3, 5, …; 1 adapts all.
        base_model_sha256: Hash of the base model's weights, or None if it is not pinned.
    """

    r: int = 8
    lora_alpha: float = 16.0
    num_experts: int = 4
    top_k: int = 2
    lora_dropout: float = 0.0
    router: Literal["linear", "block"] = "linear"
    target_modules: list[str] = dataclasses.field(
        default_factory=lambda: ["gate_proj", "up_proj", "down_proj"]
    )
    layers_to_transform: list[int] | None = None
    every: int = 2
    base_model_sha256: str | None = None

    # What the list of decoder layers is called; check_target_module_exists reads it.
    layers_pattern: ClassVar[list[str]] = ["layers", "h", "blocks"]

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If a field is outside its range.
        """
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        rules = {
            "r": (self.r >= 1, "≥ 1"),
            "lora_alpha": (self.lora_alpha > 0, "> 0"),
            "num_experts": (self.num_experts >= 1, "≥ 1"),
            "top_k": (0 <= self.top_k <= self.num_experts, "between 0 and num_experts"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "in [0, 1)"),
            "router": (self.router in {"linear", "block"}, "linear or block"),
            "target_modules": (
                type(self.target_modules) is list and len(self.target_modules) > 0,
                "a list of at least one name",
            ),
            "layers_to_transform": (self.layers_to_transform != [], "None or at least one layer"),
            "every": (self.every >= 1, "≥ 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ConfigurationError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    @classmethod
    def from_peft_type(cls, **fields: Any) -> Self:
        """Build the configuration from the fields of a saved one.

        Raises:
            ConfigurationError: If it is of another method, or has a field this one lacks.
        """
        method = fields.pop("peft_type", None)
        if method != PEFT_TYPE:
            raise ConfigurationError(f"peft_type must be {PEFT_TYPE}, got {method!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known):
            raise ConfigurationError(f"unknown fields: {', '.join(unknown)}")
        return cls(**fields)


def inject_lora_moe(model: nn.Module, config: LoraMoeConfig) -> nn.Module:
    """Freeze all parameters of ``model`` and put LoRA-MoE beside the linears ``config`` selects.

    Args:
        model: A transformers model or another module; changed in place.
        config: The configuration. The model keeps a copy with the layers listed, as
            ``model.peft_config["default"]``.

    Returns:
        ``model``.

    Raises:
        ConfigurationError: If the model already has LoRA-MoE, a name or layer of ``config``
            selects nothing, or it selects a module that is not ``nn.Linear``.
    """
    _refuse_second_adapter(model)
    config, linears = _select(model, config)
    model.requires_grad_(False)
    routers: dict[str, Router] = {}
    for name, linear in linears.items():
        block_name, _, attribute = name.rpartition(".")
        block = model.get_submodule(block_name)
        if config.router == "block" and block_name not in routers:
            routers[block_name] = Router(
                in_features=_block_width(block),
                num_experts=config.num_experts,
                top_k=config.top_k,
                device=linear.weight.device,
                dtype=routing_dtype(linear.weight.dtype),
            )
            routers[block_name].attach(block)
        layer = LoraMoeLinear(
            linear,
            num_experts=config.num_experts,
            top_k=config.top_k,
            rank=config.r,
            alpha=config.lora_alpha,
            router=routers.get(block_name),
            dropout=config.lora_dropout,
        )
        setattr(block, attribute, layer.train(linear.training))
    model.peft_config = {ADAPTER_NAME: config}  # type: ignore[assignment]
    return model


def adapter_config_of(model: nn.Module) -> LoraMoeConfig:
    """Return the configuration, its layers listed, of a model that ``inject_lora_moe`` adapted."""
    config: LoraMoeConfig = model.peft_config[ADAPTER_NAME]  # type: ignore[index, assignment]
    return config


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute as its base does inside the ``with`` block: all experts stand aside."""
    layers = [module for module in model.modules() if isinstance(module, LoraMoeLinear)]
    before = [layer.is_bypassed for layer in layers]
    for layer in layers:
        layer.is_bypassed = True
    try:
        yield
    finally:
        for layer, bypassed in zip(layers, before, strict=True):
            layer.is_bypassed = bypassed


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under the names of the saved file; see the top of this module.

    Args:
        model: A model that :func:`inject_lora_moe` adapted.

    Returns:
        Name → tensor, sharing memory with the model.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraMoeLinear):
            routed = name.rpartition(".")[0] if layer.router_is_shared else name
            tensors[f"{KEY_PREFIX}{name}.lora_A.weight"] = layer.lora_A.data
            tensors[f"{KEY_PREFIX}{name}.lora_B.weight"] = layer.lora_B.data
            tensors[f"{KEY_PREFIX}{routed}.router.weight"] = layer.router.weight.data
    return tensors


def save_adapter(model: nn.Module, directory: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, each atomically.

    Args:
        model: A model that :func:`inject_lora_moe` adapted.
        directory: Target directory; created if absent.
        dtype: Dtype of the saved tensors; None keeps that of the model.

    Raises:
        ConfigurationError: If the model has no LoRA-MoE layers.
        OutputError: If the directory cannot be written.
        StorageError: If the disk is full or failing.
    """
    tensors = adapter_state_dict(model)
    if not tensors:
        raise ConfigurationError("the model has no LoRA-MoE layers to save")
    config = adapter_config_of(model)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    saved = {key: t.to("cpu", dtype or t.dtype).contiguous() for key, t in tensors.items()}
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
    weights = save(saved, metadata={"format": "pt"})
    write_atomically(directory / SAFETENSORS_WEIGHTS_NAME, lambda file: _write(file, weights))
    write_atomically(directory / CONFIG_NAME, lambda file: _write(file, text.encode()))


def read_adapter_config(directory: Path) -> LoraMoeConfig:
    """Read the ``adapter_config.json`` of a saved adapter.

    Raises:
        ModelNotFoundError: If there is none.
        IntegrityError: If it is not that of a LoRA-MoE; the message names the file.
    """
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no adapter here; name a directory that was saved as one")
    try:
        return LoraMoeConfig.from_peft_type(**json.loads(path.read_text(encoding="utf-8")))
    except (ConfigurationError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: not a LoRA-MoE configuration: {error}") from error


def load_adapter(model: nn.Module, directory: Path, *, base_sha256: str | None = None) -> nn.Module:
    """Put a saved adapter on a plain base model, all of it or nothing.

    Args:
        model: The base model; changed in place, as by :func:`inject_lora_moe`. It is left as it
            was if the adapter is refused.
        directory: What :func:`save_adapter` wrote.
        base_sha256: Hash of the base model's weights, to be compared with the adapter's.

    Returns:
        ``model``; the adapter's parameters are trainable, everything else is frozen.

    Raises:
        ModelNotFoundError: If one of the two files is missing.
        IntegrityError: If a file is damaged, the adapter was made for another base, or a tensor
            is missing, unexpected, of another shape, not floating-point, or not finite.
        ConfigurationError: If the model already has LoRA-MoE layers.
    """
    directory = Path(directory)
    config = read_adapter_config(directory)
    made_for = config.base_model_sha256
    if base_sha256 is not None and made_for is not None and made_for != base_sha256:
        raise IntegrityError(
            f"{directory}: the adapter was made for base weights with sha256 {made_for}, "
            f"but these have {base_sha256}; load it on its own base"
        )
    _refuse_second_adapter(model)
    try:
        _, linears = _select(model, config)
    except ConfigurationError as error:
        raise IntegrityError(f"{directory}: the adapter does not fit this base: {error}") from error
    weights_path = directory / SAFETENSORS_WEIGHTS_NAME
    check_safetensors(weights_path)
    tensors = load_file(weights_path)
    check_tensors(weights_path, tensors, _expected_shapes(model, config, linears))
    inject_lora_moe(model, config)
    with torch.no_grad():
        for key, target in adapter_state_dict(model).items():
            target.copy_(tensors[key])
    return model


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _refuse_second_adapter(model: nn.Module) -> None:
    if any(isinstance(module, LoraMoeLinear) for module in model.modules()):
        raise ConfigurationError("the model already has LoRA-MoE layers; start from a plain base")


def _select(model: nn.Module, config: LoraMoeConfig) -> tuple[LoraMoeConfig, dict[str, nn.Linear]]:
    """The configuration with its layers listed, and the linears it selects, by name."""
    everywhere = dataclasses.replace(config, layers_to_transform=None)
    candidates = [
        name for name, _ in model.named_modules() if check_target_module_exists(everywhere, name)
    ]
    for target in config.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in candidates):
            present = sorted(
                {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
            )
            raise ConfigurationError(
                f"target_modules: no module is called {target} (tried "
                f"{', '.join(config.target_modules)}); the model's linears are called "
                f"{', '.join(present) or 'nothing: it has none'}"
            )
    layers = {index for name in candidates if (index := decoder_layer_of(name)) is not None}
    wanted = config.layers_to_transform
    if wanted is None and layers:
        wanted = [i for i in sorted(layers) if i % config.every == config.every - 1]
        if not wanted:
            raise ConfigurationError(
                f"every = {config.every} leaves none of the layers {sorted(layers)} to adapt"
            )
    if wanted is not None and (absent := sorted(set(wanted) - layers)):
        raise ConfigurationError(
            f"layers_to_transform: no {', '.join(config.target_modules)} in layers {absent}; "
            f"the model has them in layers {sorted(layers)}"
        )
    config = dataclasses.replace(config, layers_to_transform=wanted)
    linears: dict[str, nn.Linear] = {}
    for name in candidates:
        if check_target_module_exists(config, name):
            module = model.get_submodule(name)
            if not isinstance(module, nn.Linear):
                raise ConfigurationError(
                    f"target_modules: {name} is a {type(module).__name__}, not nn.Linear"
                )
            linears[name] = module
    return config, linears


def decoder_layer_of(name: str) -> int | None:
    """Index of the decoder layer that a module or tensor belongs to, None outside of all."""
    containers = "|".join(LoraMoeConfig.layers_pattern)
    match = re.search(rf"(?:^|\.)(?:{containers})\.(\d+)\.", name)
    return None if match is None else int(match[1])


def _block_width(block: nn.Module) -> int:
    """Width of a block's input: that of its first linear, which is the first to read it."""
    return next(m.in_features for m in block.modules() if isinstance(m, nn.Linear))


def _expected_shapes(
    model: nn.Module, config: LoraMoeConfig, linears: dict[str, nn.Linear]
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an adapter for these linears."""
    rank_total = config.num_experts * config.r
    shapes: dict[str, tuple[int, ...]] = {}
    for name, linear in linears.items():
        shapes[f"{KEY_PREFIX}{name}.lora_A.weight"] = (rank_total, linear.in_features)
        shapes[f"{KEY_PREFIX}{name}.lora_B.weight"] = (linear.out_features, rank_total)
        routed, width = name, linear.in_features
        if config.router == "block":
            routed = name.rpartition(".")[0]
            width = _block_width(model.get_submodule(routed))
        shapes[f"{KEY_PREFIX}{routed}.router.weight"] = (config.num_experts, width)
    return shapes
