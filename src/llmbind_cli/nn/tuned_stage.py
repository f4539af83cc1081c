"""The last blocks of EfficientNet-lite0, tuned, on what its frozen blocks hand over.

A network that was trained to tell the classes of photos sees drawings with other eyes than they
need. What it makes of edges and textures can stay; the blocks that make things of these, three
quarters of its weights, are five megabytes, so a bundle can bring its own: the earlier layers
frozen, the later ones tuned (Yosinski et al., arXiv 1411.1792). Then the channels are mixed and
refined as in the neck of the mask decoder.

Notation: ``B`` pictures, ``K`` cells, ``W`` width of a cell as the tower hands it over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.nn.efficientnet_lite import CHANNELS, WIDTH, LastBlocks
from llmbind_cli.nn.neck import Lateral, NeckBlock

_COARSEST = 32
_NECK_WIDTH, _NECK_LAYERS = 128, 2


class TunedStage(nn.Module):
    """Cells as a tower hands them over → cells as they are read.

    Args:
        stride: Of the map that is handed over, one of EfficientNet's but the coarsest.
        beside: Numbers at the end of a cell that come from no map; they pass as they are.

    Attributes:
        width: Of a cell afterwards.

    Raises:
        ValueError: The network has no such stride.
    """

    def __init__(self, *, stride: int, beside: int) -> None:
        super().__init__()
        self.last = LastBlocks(stride)
        self.lateral = Lateral(WIDTH, _NECK_WIDTH)
        self.neck = nn.Sequential(*(NeckBlock(_NECK_WIDTH) for _ in range(_NECK_LAYERS)))
        self.width = _NECK_WIDTH + beside
        self._folds = _COARSEST // stride
        self._in_map = CHANNELS[stride] * self._folds**2

    def forward(self, features: Tensor) -> Tensor:
        """Refine cells.

        Args:
            features: [B, K, W], the cells of a square grid row after row: the parts of the map that
                lie in each, folded into its channels, then what stands beside them.

        Returns:
            [B, K, width].
        """
        cells, beside = features.tensor_split([self._in_map], dim=2)
        side = math.isqrt(cells.shape[1])
        folded = cells.transpose(1, 2).reshape(len(cells), -1, side, side)
        tuned = self.last(functional.pixel_shuffle(folded, self._folds))
        refined = self.neck(self.lateral(tuned)).flatten(2).transpose(1, 2)
        return torch.cat([refined.to(beside), beside], dim=2)
