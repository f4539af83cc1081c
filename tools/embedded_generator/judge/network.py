"""The judge's network: EfficientNet-lite0 with a head of its own.

The backbone and its ImageNet weights are llmbind's. Its batch normalisations are folded into the
convolutions: with these few pictures a class their statistics would be learnt from the training
styles alone, and a CPU trains the folded network twice as fast.

Notation: B pictures, S side of the input in pixels (a multiple of 32), N things.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmbind_cli.metrics.extractors.efficientnet_lite import PRETRAINED, pretrained_state
from llmbind_cli.nn.efficientnet_lite import WIDTH, EfficientNetLite0


class JudgeNetwork(EfficientNetLite0):
    """Backbone and linear head.

    Args:
        num_things: N.
        dropout: Share of features that are hidden from the head in training.
    """

    def __init__(self, *, num_things: int, dropout: float = 0.2) -> None:
        if num_things < 1:
            raise ValueError(f"num_things must be ≥ 1, got {num_things}")
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, num_things)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, S, S], 0 to 1 → [B, N] logits."""
        logits: Tensor = self.head(self.dropout(self.features(pictures)))
        return logits


def pretrained_network(*, num_things: int) -> JudgeNetwork:
    """Return the network with its ImageNet backbone and a new head."""
    network = JudgeNetwork(num_things=num_things)
    missing, unexpected = network.load_state_dict(pretrained_state(), strict=False)
    if unexpected or set(missing) != {"head.weight", "head.bias"}:
        raise ValueError(f"{PRETRAINED} does not fit: {missing=}, {unexpected=}")
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    return network.to(memory_format=torch.channels_last)
