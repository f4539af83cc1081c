"""Grounding encoders: networks whose feature maps the mask decoder reads.

The image encoder of Segment Anything (arXiv 2304.02643), as in LISA and LLMBind; or
EfficientNet-lite0's maps for bundles that must be small. Both see a picture scaled to the long side
and padded at the right and at the bottom, and stay frozen.

Notation: ``B`` pictures, ``S`` side of the square, ``C`` channels of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.model.config import SightConfig
from llmbind_cli.model.vision.preprocessing import Preprocessing
from llmbind_cli.model.vision.towers import check_strides
from llmbind_cli.nn.efficientnet_lite import CHANNELS, Backbone
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder
from llmbind_cli.nn.list_pointer import told_width


class GroundingEncoder(Protocol):
    """What the rest of the model needs of an encoder; it is an ``nn.Module`` as well."""

    preprocessing: Preprocessing
    channels: tuple[int, ...]

    def __call__(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Float [B, 3, S, S] → maps, finest first, each [B, C, h, w] in float32."""


class SamGrounding(nn.Module):
    """The image encoder of Segment Anything, ViT-B, L or H.

    Args:
        network: A ``SamVisionModel`` of transformers.
        preprocessing: Of pictures; its side must be that of the network.

    Raises:
        ValueError: The network has another side.
    """

    def __init__(self, network: Any, *, preprocessing: Preprocessing) -> None:
        super().__init__()
        if network.config.image_size != preprocessing.side_px:
            raise ValueError(
                f"side_px must be the network's {network.config.image_size}, "
                f"got {preprocessing.side_px}"
            )
        self.network = network
        self.preprocessing = preprocessing
        self.channels: tuple[int, ...] = (int(network.config.output_channels),)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Float [B, 3, S, S] → one map, [B, C, S / patch, S / patch]."""
        dtype = next(self.network.parameters()).dtype
        features: Tensor = self.network(pixel_values.to(dtype)).last_hidden_state
        return (features.float(),)


class EfficientNetGrounding(nn.Module):
    """Feature maps of EfficientNet-lite0.

    Args:
        network: The backbone, which may be shared with a vision tower.
        preprocessing: Of pictures.
        strides: Of the maps, finest first.
        tuned_from: Stride of the last map that is handed over: the mask decoder makes the one of
            stride 32 of it, by blocks of its own.

    Attributes:
        channels: Of all maps, also of the one that is made by the decoder.
        reads_to: Stride of the coarsest of the backbone's maps that is read.

    Raises:
        ValueError: A stride is unknown, or they are not in order, or the side does not fit; or
            blocks are tuned from another map than the last but one, or towards none.
    """

    def __init__(
        self,
        network: Backbone,
        *,
        preprocessing: Preprocessing,
        strides: Sequence[int] = (4, 8, 16, 32),
        tuned_from: int | None = None,
    ) -> None:
        super().__init__()
        check_strides(strides, preprocessing.side_px)
        if tuned_from is not None and tuple(strides[-2:]) != (tuned_from, 32):
            raise ValueError(
                f"strides must end with tuned_from and 32, got {list(strides)} with {tuned_from}"
            )
        self.network = network
        self.preprocessing = preprocessing
        self.strides = tuple(strides)
        self.channels = tuple(CHANNELS[stride] for stride in strides)
        self.reads_to = tuned_from or self.strides[-1]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Float [B, 3, S, S] → one map a stride, [B, C, S / stride, S / stride]."""
        return self.chosen(self.network.feature_maps(pixel_values, self.reads_to))

    def chosen(self, maps: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        """Take the maps of this encoder out of all those of the backbone."""
        return tuple(maps[stride].float() for stride in self.strides if stride <= self.reads_to)


def light_decoder(
    config: SightConfig, grounding: GroundingEncoder, hidden_size: int
) -> LightMaskDecoder:
    """Make the light mask decoder of a bundle, which has blocks of its own where some are tuned.

    Args:
        config: What the bundle says of its sight.
        grounding: The encoder whose maps are decoded.
        hidden_size: Width of the LLM, whose words a list of things has.

    Raises:
        ConfigurationError: A setting does not fit.
    """
    entry = config.grounding_encoder
    settings: dict[str, Any] = {**config.mask_decoder}
    if entry is not None and entry.tuned_from is not None:
        settings["tuned_from"] = entry.tuned_from
    if config.object_tokens is not None:
        settings["told_width"] = told_width(hidden_size)
    try:
        return LightMaskDecoder(channels=grounding.channels, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"mask_decoder: {error}") from error
