"""Vision towers: networks whose features become positions of the language model.

CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343) give one token a patch; EfficientNet-lite0
(arXiv 1905.11946) gives one a cell of its coarsest map, for bundles that must be small. All stay
frozen, as in LLMBind (arXiv 2402.14891, section 3.1).

Notation: ``B`` pictures, ``S`` side of the square, ``K`` tokens a picture, ``W`` their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.model.vision.preprocessing import Preprocessing
from llmbind_cli.nn.efficientnet_lite import CHANNELS, Backbone

_COORDINATES = 2
"""Numbers at the end of EfficientNet's features that tell a token's place."""

_PARTS = 4
"""Parts of a cell, across and down, whose mean colours may be told."""


class VisionTower(Protocol):
    """What the rest of the model needs of a tower; it is an ``nn.Module`` as well."""

    preprocessing: Preprocessing
    num_tokens: int
    width: int

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Float [B, 3, S, S] → features [B, K, W]."""


class ViTTower(nn.Module):
    """The patch features of a CLIP or SigLIP vision transformer.

    Args:
        network: A ``CLIPVisionModel`` or ``SiglipVisionModel`` of transformers.
        preprocessing: Of pictures; its side must be that of the network.
        layer: Which of the hidden states is taken: LLaVA takes the last but one, -2.

    Raises:
        ValueError: The network has no such layer, or another side.
    """

    def __init__(self, network: Any, *, preprocessing: Preprocessing, layer: int) -> None:
        super().__init__()
        config = network.config
        if config.image_size != preprocessing.side_px:
            raise ValueError(
                f"side_px must be the network's {config.image_size}, got {preprocessing.side_px}"
            )
        depth = config.num_hidden_layers
        if not -depth - 1 <= layer <= depth:
            raise ValueError(f"layer must lie in [{-depth - 1}, {depth}], got {layer}")
        self.network = network
        self.preprocessing = preprocessing
        self.layer = layer
        self.num_tokens = (config.image_size // config.patch_size) ** 2
        self.width = int(config.hidden_size)
        # CLIP prepends the class token, SigLIP has none.
        self._skipped = 1 if config.model_type.startswith("clip") else 0

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Float [B, 3, S, S] → features [B, K, W], row after row; the class token is left out."""
        dtype = next(self.network.parameters()).dtype
        output = self.network(pixel_values.to(dtype), output_hidden_states=True)
        states: Tensor = output.hidden_states[self.layer]
        return states[:, self._skipped :]


class EfficientNetTower(nn.Module):
    """The cells of EfficientNet's maps, on one or more scales.

    A cell of the coarsest map is one token. The cells of finer maps that lie in it are folded into
    its channels. Each scale is normalised over its channels. Then may come the mean colours of the
    cell's sixteen parts, of which a network that was trained to tell classes keeps little. Two more
    numbers tell the token's place, since a convolution does not know where it is.

    Args:
        network: The backbone, which may be shared with a grounding encoder.
        preprocessing: Of pictures; the side must be a multiple of the coarsest stride.
        strides: Of the maps, finest first: keys of
            :data:`llmbind_cli.nn.efficientnet_lite.CHANNELS`.
        cell_colours: Whether the tokens tell colours.
        tuned_from: Stride of a map that is folded into the tokens as it is, in place of the
            coarsest one, for a :class:`llmbind_cli.nn.tuned_stage.TunedStage` to go on from.

    Attributes:
        num_beside: Numbers at the end of a token that come from no map.
        reads_to: Stride of the coarsest of the backbone's maps that is read.

    Raises:
        ValueError: A stride is unknown, or they are not in order, or the side does not fit; or
            other maps are to be taken beside one that is handed over.
    """

    def __init__(
        self,
        network: Backbone,
        *,
        preprocessing: Preprocessing,
        strides: Sequence[int] = (32,),
        cell_colours: bool = False,
        tuned_from: int | None = None,
    ) -> None:
        super().__init__()
        check_strides(strides, preprocessing.side_px)
        if tuned_from is not None and (tuple(strides) != (32,) or tuned_from not in (4, 8, 16)):
            raise ValueError(
                f"tuned_from must be 4, 8 or 16 where strides are [32], got {tuned_from} with "
                f"{list(strides)}"
            )
        self.network = network
        self.preprocessing = preprocessing
        self.strides = tuple(strides)
        self.tuned_from = tuned_from
        self.reads_to = tuned_from or self.strides[-1]
        coarsest = self.strides[-1]
        self.num_tokens = (preprocessing.side_px // coarsest) ** 2
        self.cell_colours = cell_colours
        self.num_beside = _COORDINATES + (3 * _PARTS**2 if cell_colours else 0)
        folded = self.strides if tuned_from is None else (tuned_from,)
        in_maps = sum(CHANNELS[s] * (coarsest // s) ** 2 for s in folded)
        self.width = in_maps + self.num_beside

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Float [B, 3, S, S] → features [B, K, W], row after row."""
        maps = self.network.feature_maps(pixel_values, self.reads_to)
        return self.tokens(maps, pixel_values)

    def tokens(self, maps: dict[int, Tensor], pixel_values: Tensor) -> Tensor:
        """Turn the backbone's maps of pictures [B, 3, S, S] into features [B, K, W]."""
        coarsest = self.strides[-1]
        parts = []
        if self.tuned_from is not None:
            folded = functional.pixel_unshuffle(maps[self.tuned_from], coarsest // self.tuned_from)
            parts.append(folded.flatten(2))
        else:
            for stride in self.strides:
                cells = maps[stride].movedim(1, -1)
                cells = functional.layer_norm(cells, cells.shape[-1:]).movedim(-1, 1)
                parts.append(functional.pixel_unshuffle(cells, coarsest // stride).flatten(2))
        if self.cell_colours:
            means = functional.avg_pool2d(pixel_values, coarsest // _PARTS)
            parts.append(functional.pixel_unshuffle(means, _PARTS).flatten(2).to(parts[0]))
        rows, columns = (side // coarsest for side in pixel_values.shape[-2:])
        place = torch.cartesian_prod(
            torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)
        ).to(parts[0])  # [K, 2]
        places = place.T.expand(len(parts[0]), -1, -1)
        return torch.cat([*parts, places], dim=1).transpose(1, 2)  # [B, K, W]


def check_strides(strides: Sequence[int], side_px: int) -> None:
    """Refuse strides that EfficientNet-lite0 has not, or that do not fit the side of the square.

    Raises:
        ValueError: One is unknown, they are not in order, or the side is no multiple of them.
    """
    if not strides or list(strides) != sorted(set(strides)) or not CHANNELS.keys() >= set(strides):
        raise ValueError(
            f"strides must be some of {', '.join(map(str, CHANNELS))} in this order, "
            f"got {list(strides)}"
        )
    if side_px % 32:
        raise ValueError(f"side_px must be a multiple of 32, got {side_px}")
