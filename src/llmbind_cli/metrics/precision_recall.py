"""Improved precision and recall of generative models (Kynkäänniemi et al., arXiv 1904.06991).

Precision is the share of made samples that lie within the neighbourhood of some true one; recall
is the share of true samples that lie within the neighbourhood of some made one. A sample's
neighbourhood reaches as far as its k-th nearest other sample of the same set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_ROWS = 256
_PAIRS = 16384
_DOUBT = 1e-12


class PrecisionRecall(NamedTuple):
    """Both shares, in [0, 1].

    Attributes:
        precision: Of the predictions.
        recall: Of the references.
        precise: Which predictions lie among the references, bool, [n].
        recalled: Which references lie among the predictions, bool, [m].
    """

    precision: float
    recall: float
    precise: list[bool]
    recalled: list[bool]


def precision_recall(predictions: Any, references: Any, *, k: int = 3) -> PrecisionRecall:
    """Give improved precision and recall.

    Args:
        predictions: Features of what was made, [n, D], numpy or torch on the CPU.
        references: Features of what is true, [m, D].
        k: Which nearest neighbour bounds a neighbourhood; below n and m.

    Raises:
        ValueError: Shapes do not fit, k is out of range, or a value is not finite.
    """
    made = torch.from_numpy(np.asarray(predictions, dtype=np.float64))
    true = torch.from_numpy(np.asarray(references, dtype=np.float64))
    if made.dim() != 2 or true.dim() != 2 or made.shape[1] != true.shape[1]:
        raise ValueError(
            f"features must be [n, D] and [m, D], got {tuple(made.shape)}, {tuple(true.shape)}"
        )
    if not 1 <= k < min(len(made), len(true)):
        raise ValueError(f"k must be between 1 and {min(len(made), len(true)) - 1}, got {k}")
    if not (made.isfinite().all() and true.isfinite().all()):
        raise ValueError("features hold NaN or infinity")
    middle = true.mean(dim=0)  # distances stay, and small numbers keep more of their digits
    made, true = made - middle, true - middle
    precise = _within(made, true, _squared_radii(true, k))
    recalled = _within(true, made, _squared_radii(made, k))
    return PrecisionRecall(
        precision=float(precise.double().mean()),
        recall=float(recalled.double().mean()),
        precise=precise.tolist(),
        recalled=recalled.tolist(),
    )


def _squared_radii(samples: Tensor, k: int) -> Tensor:
    """Squared distance to the k-th nearest other sample, [n]; the nearest is the sample itself."""
    radii = []
    for part in torch.split(samples, _ROWS):
        nearest = _squared_distances(part, samples).kthvalue(k + 1, dim=1).indices
        radii.append((part - samples[nearest]).square().sum(dim=1))
    return torch.cat(radii)


def _within(samples: Tensor, centres: Tensor, squared_radii: Tensor) -> Tensor:
    """Whether each sample lies within the radius of any centre, bool, [n]."""
    return torch.cat([
        _part_within(part, centres, squared_radii) for part in torch.split(samples, _ROWS)
    ])  # fmt: skip


def _part_within(part: Tensor, centres: Tensor, squared_radii: Tensor) -> Tensor:
    distances = _squared_distances(part, centres)
    inside = distances <= squared_radii
    scale = part.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    doubtful = (distances - squared_radii).abs() <= _DOUBT * scale
    # A distance within rounding of the radius, as copies of a sample have, is taken anew, exactly.
    for pairs in torch.split(doubtful.nonzero(), _PAIRS):
        row, column = pairs.T
        exact = (part[row] - centres[column]).square().sum(dim=1)
        inside[row, column] = exact <= squared_radii[column]
    return inside.any(dim=1)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """By products of rows, which is ten times faster than by differences: [n, m], rounded."""
    products = x @ y.T
    return x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1) - 2 * products
