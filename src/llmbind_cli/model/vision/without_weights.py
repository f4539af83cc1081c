"""Sight without its weights: built on PyTorch's meta device, to be counted.

What a network is like comes from its own configuration where it is cached, else from the fields
that a recipe gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.model.config import SightConfig, VisionNetwork
from llmbind_cli.model.vision.grounding import (
    EfficientNetGrounding,
    GroundingEncoder,
    SamGrounding,
    light_decoder,
)
from llmbind_cli.model.vision.networks import preprocessing_of
from llmbind_cli.model.vision.sam_mask_decoder import SamMaskDecoder
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.model.vision.towers import EfficientNetTower, VisionTower, ViTTower
from llmbind_cli.nn import efficientnet_lite
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder


def sight_without_weights(
    config: SightConfig,
    *,
    architectures: Mapping[str, Mapping[str, Any] | Path],
    hidden_size: int,
    tasks: Sequence[str],
) -> Sight:
    """Build a bundle's sight on the meta device.

    Args:
        config: What the bundle says of it.
        architectures: ``vision_tower`` and ``grounding_encoder`` → fields of the network's
            configuration in transformers, or the folder that holds it; EfficientNet needs neither.
        hidden_size: ``D`` of the LLM.
        tasks: Tasks of the token table.

    Raises:
        ConfigurationError: A network's configuration is missing or wrong, or a setting does not fit
            it.
    """
    try:
        with torch.device("meta"):
            light = _LightNetworks()
            tower = _tower(config.vision_tower, architectures.get("vision_tower"), light)
            grounding: GroundingEncoder | None = None
            decoder: SamMaskDecoder | LightMaskDecoder | None = None
            if config.grounding_encoder is not None:
                grounding, decoder = _grounding(
                    config, architectures.get("grounding_encoder"), hidden_size, light
                )
            return Sight(
                config,
                tower=tower,
                grounding=grounding,
                hidden_size=hidden_size,
                tasks=tasks,
                mask_decoder=decoder,
            )
    except ConfigurationError:
        raise
    except Exception as error:  # each configuration class has errors of its own
        raise ConfigurationError(f"sight: {' '.join(str(error).split())}") from error


class _LightNetworks:
    """EfficientNets by their source, so that one which serves as two things is built once."""

    def __init__(self) -> None:
        self._built: dict[tuple[str, str | None], efficientnet_lite.EfficientNetLite0] = {}

    def of(self, entry: VisionNetwork) -> efficientnet_lite.EfficientNetLite0:
        """Return the network of an entry."""
        key = (entry.source, entry.sha256)
        if key not in self._built:
            self._built[key] = efficientnet_lite.EfficientNetLite0()
        return self._built[key]


def _tower(
    entry: VisionNetwork, described: Mapping[str, Any] | Path | None, light: _LightNetworks
) -> VisionTower:
    import transformers

    preprocessing = preprocessing_of(entry)
    if entry.family == "efficientnet-lite0":
        return EfficientNetTower(
            light.of(entry),
            preprocessing=preprocessing,
            strides=entry.strides or (32,),
            cell_colours=entry.cell_colours,
            tuned_from=entry.tuned_from,
        )
    kinds = {
        "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
        "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
    }
    if entry.family not in kinds:
        raise ConfigurationError(f"a vision tower cannot be of family {entry.family}")
    config_class, model_class = kinds[entry.family]
    config = _configuration("vision_tower", entry, described, config_class)
    return ViTTower(_frozen(model_class(config)), preprocessing=preprocessing, layer=entry.layer)


def _grounding(
    config: SightConfig,
    described: Mapping[str, Any] | Path | None,
    hidden_size: int,
    light: _LightNetworks,
) -> tuple[GroundingEncoder, SamMaskDecoder | LightMaskDecoder]:
    import transformers

    entry = config.grounding_encoder
    if entry is None:
        raise ValueError("there is no grounding encoder")
    preprocessing = preprocessing_of(entry)
    if entry.family == "efficientnet-lite0":
        encoder = EfficientNetGrounding(
            light.of(entry),
            preprocessing=preprocessing,
            strides=entry.strides or tuple(efficientnet_lite.CHANNELS),
            tuned_from=entry.tuned_from,
        )
        return encoder, light_decoder(config, encoder, hidden_size)
    vision = _configuration("grounding_encoder", entry, described, transformers.SamVisionConfig)
    whole = transformers.SamConfig(vision_config=vision.to_dict())
    network = _frozen(transformers.SamVisionModel(vision))
    return SamGrounding(network, preprocessing=preprocessing), SamMaskDecoder(whole)


def _configuration(
    name: str, entry: VisionNetwork, described: Mapping[str, Any] | Path | None, kind: Any
) -> Any:
    if described is None:
        raise ConfigurationError(
            f"sight.{name}: {entry.source} is not cached; describe it in "
            f"[sight.{name}.architecture], or fetch it"
        )
    if isinstance(described, Path):
        from transformers import AutoConfig

        whole = AutoConfig.from_pretrained(described, local_files_only=True)
        return getattr(whole, "vision_config", whole)
    known = kind().to_dict().keys()
    if unknown := sorted(described.keys() - known):
        raise ConfigurationError(f"unknown key sight.{name}.architecture.{unknown[0]}")
    return kind(**described)


def _frozen(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False)
