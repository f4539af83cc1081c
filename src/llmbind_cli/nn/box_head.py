"""The hidden state of a ``detect`` token → a box, and the losses of boxes.

LLMBind names boxes as the next task of its semantic-embedding tokens (arXiv 2402.14891, section
3.2) and leaves the head open. This one predicts centre and size as DETR does (arXiv 2005.12872,
section 3.1), and is trained with that paper's two losses.

Notation: ``M`` boxes, ``D`` width of the LLM. A box is (x1, y1, x2, y2) with 0 ≤ x1 ≤ x2 ≤ 1 over
the width of the picture and likewise over its height, y pointing down.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BoxHead(nn.Module):
    """Three linear layers with ReLU between them.

    Args:
        hidden_size: ``D``, ≥ 1.

    Raises:
        ValueError: It is < 1.
    """

    def __init__(self, *, hidden_size: int) -> None:
        super().__init__()
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be ≥ 1, got {hidden_size}")
        self.linear_1 = nn.Linear(hidden_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)
        self.linear_3 = nn.Linear(hidden_size, 4)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[M, D] → boxes [M, 4]; they may reach beyond the picture."""
        hidden = functional.relu(self.linear_1(hidden_states))
        hidden = functional.relu(self.linear_2(hidden))
        centre, size = self.linear_3(hidden).sigmoid().chunk(2, dim=-1)  # [M, 2] each
        return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def box_l1_loss(boxes: Tensor, target: Tensor) -> Tensor:
    """Sum of the absolute differences of the four numbers, averaged over boxes.

    Args:
        boxes: [M, 4].
        target: [M, 4].

    Returns:
        Scalar; zero if there is no box.

    Raises:
        ValueError: The shapes differ or are not [M, 4].
    """
    _check_boxes(boxes, target)
    return (boxes - target).abs().sum() / max(1, len(boxes))


def box_giou_loss(boxes: Tensor, target: Tensor) -> Tensor:
    """One minus the generalised IoU (arXiv 1902.09630, Algorithm 1), averaged over boxes.

    Args:
        boxes: [M, 4].
        target: [M, 4].

    Returns:
        Scalar in [0, 2]; zero if there is no box.

    Raises:
        ValueError: The shapes differ or are not [M, 4].
    """
    _check_boxes(boxes, target)
    inner = _area(
        torch.cat(
            [
                torch.maximum(boxes[:, :2], target[:, :2]),
                torch.minimum(boxes[:, 2:], target[:, 2:]),
            ],
            dim=1,
        )
    )
    hull = _area(
        torch.cat(
            [
                torch.minimum(boxes[:, :2], target[:, :2]),
                torch.maximum(boxes[:, 2:], target[:, 2:]),
            ],
            dim=1,
        )
    ).clamp(min=1e-9)
    union = (_area(boxes) + _area(target) - inner).clamp(min=1e-9)
    giou = inner / union - (hull - union) / hull
    return (1 - giou).sum() / max(1, len(boxes))


def _area(boxes: Tensor) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def _check_boxes(boxes: Tensor, target: Tensor) -> None:
    if boxes.shape != target.shape or boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes and target must have one shape [M, 4], got {tuple(boxes.shape)} and "
            f"{tuple(target.shape)}"
        )
