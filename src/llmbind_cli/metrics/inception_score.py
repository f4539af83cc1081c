"""Inception score (arXiv 1606.03498): how sure a classifier is of each sample, and how varied.

Order of the samples, splits and random numbers are those of torch-fidelity (``metric_isc.py``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch


class InceptionScore(NamedTuple):
    """Score over the splits.

    Attributes:
        mean: Between 1 and the number of classes; higher is better.
        std: Population standard deviation of the splits.
    """

    mean: float
    std: float


def inception_score(logits: Any, *, splits: int = 10, seed: int | None) -> InceptionScore:
    """Give exp of the mean Kullback–Leibler divergence of p(y | x) from p(y), split by split.

    Args:
        logits: Of a classifier, [n, classes], numpy or torch; taken as float64.
        splits: Number of parts, each at least one sample.
        seed: Of the order in which samples go to the parts; torch-fidelity takes 2020. ``None``
            keeps their order.

    Raises:
        ValueError: Not [n, classes], fewer samples than splits, or a value is not finite.
    """
    scores = torch.as_tensor(logits).detach().cpu().double()
    if scores.dim() != 2 or not scores.isfinite().all():
        raise ValueError(f"logits must be finite and [n, classes], got {tuple(scores.shape)}")
    n = len(scores)
    if not 1 <= splits <= n:
        raise ValueError(f"splits must be between 1 and {n} samples, got {splits}")
    if seed is not None:
        scores = scores[torch.from_numpy(np.random.RandomState(seed).permutation(n))]
    probabilities, logarithms = scores.softmax(dim=1), scores.log_softmax(dim=1)
    values = []
    for part in range(splits):
        rows = slice(part * n // splits, (part + 1) * n // splits)
        mean = probabilities[rows].mean(dim=0, keepdim=True)
        terms = probabilities[rows] * (logarithms[rows] - mean.log())
        # A probability that underflows to 0 adds nothing.
        terms = terms.masked_fill(probabilities[rows] == 0, 0.0)
        values.append(float(terms.sum(dim=1).mean().exp()))
    return InceptionScore(mean=float(np.mean(values)), std=float(np.std(values)))
