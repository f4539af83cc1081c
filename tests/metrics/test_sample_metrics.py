"""Kernel distance, improved precision and recall, and the inception score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmbind_cli.metrics.inception_score import inception_score
from llmbind_cli.metrics.kernel_distance import kernel_distance
from llmbind_cli.metrics.precision_recall import precision_recall


def features(n: int, width: int = 6, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)) + shift


def literal_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """arXiv 1801.01401, Eq. (4), one pair at a time."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3)

    m = len(x)
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within / (m * (m - 1)) - 2 * across / m**2


def test_kernel_distance_equals_the_literal_sum_over_torch_fidelity_s_subsets():
    x, y = features(14, seed=1), features(11, seed=2, shift=0.5)
    result = kernel_distance(x, y, subsets=3, subset_size=7, seed=2020)
    draws = np.random.RandomState(2020)  # torch-fidelity: one generator, first x, then y
    values = []
    for _ in range(3):
        first = x[draws.choice(14, 7, replace=False)]
        values.append(literal_mmd(first, y[draws.choice(11, 7, replace=False)]))
    assert result == pytest.approx((np.mean(values), np.std(values)), rel=1e-11)


def test_a_large_seed_counts_modulo_the_generator_s_range():
    x, y = features(9, seed=1), features(9, seed=2)
    by_seed = [
        kernel_distance(x, y, subsets=2, subset_size=5, seed=seed) for seed in (3, 2**32 + 3)
    ]
    assert by_seed[0] == by_seed[1]


def test_kernel_distance_equals_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics: extra eval")
    x, y = features(9, seed=1), features(9, seed=2, shift=0.5)
    expected = kid.poly_mmd(torch.from_numpy(x), torch.from_numpy(y)).item()
    result = kernel_distance(x, y, subsets=2, subset_size=9, seed=0)
    assert result.mean == pytest.approx(expected, rel=1e-11)
    assert result.std == pytest.approx(0, abs=1e-12)


def test_kernel_distance_frozen_and_unbiased():
    x, y = features(40, seed=3), features(50, seed=4, shift=0.3)
    result = kernel_distance(x, y, subsets=5, subset_size=20, seed=1)
    assert result == pytest.approx(
        (0.7764242909174601, 0.4659015705184895), rel=1e-10
    )  # values of the test above's method
    same = kernel_distance(features(400, seed=5), features(400, seed=6), subset_size=200, seed=0)
    assert abs(same.mean) < 0.05  # the samples' own spread; the shift above gives 0.6
    assert kernel_distance(x, y, subset_size=20, seed=2) != kernel_distance(
        x, y, subset_size=20, seed=3
    )


def test_kernel_distance_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="between 2 and 5, got 6"):
        kernel_distance(features(5), features(9), subset_size=6, seed=0)
    with pytest.raises(ValueError, match="subsets must be ≥ 1"):
        kernel_distance(features(5), features(9), subsets=0, subset_size=3, seed=0)
    with pytest.raises(ValueError, match=r"\[n, D\]"):
        kernel_distance(features(5), features(9, width=3), subset_size=3, seed=0)


def literal_share(samples: np.ndarray, centres: np.ndarray, k: int) -> float:
    inside = 0
    for sample in samples:
        for number, centre in enumerate(centres):
            others = sorted(
                math.dist(centre, other) for i, other in enumerate(centres) if i != number
            )
            if math.dist(sample, centre) <= others[k - 1]:
                inside += 1
                break
    return inside / len(samples)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_equal_the_literal_definition(k):
    made, true = features(30, width=2, seed=0, shift=0.8), features(23, width=2, seed=1)
    result = precision_recall(made, true, k=k)
    assert result.precision == literal_share(made, true, k)
    assert result.recall == literal_share(true, made, k)
    assert sum(result.precise) / 30 == pytest.approx(result.precision)
    assert sum(result.recalled) / 23 == pytest.approx(result.recall)


def test_precision_and_recall_of_known_sets():
    true = features(300, width=3, seed=2)
    assert precision_recall(true, true)[:2] == (1.0, 1.0)
    far = precision_recall(true + 100, true)
    assert far[:2] == (0.0, 0.0)
    # One mode of two: all that is made is true, and half of the truth is made.
    both = np.concatenate([true, true + 100])
    assert precision_recall(true, both)[:2] == (1.0, 0.5)
    turned = precision_recall(both, true)
    assert turned[:2] == (0.5, 1.0)
    # A lattice, on which half of all distances are exactly the radius, far from the origin.
    lattice = np.stack(np.meshgrid(*[np.arange(5.0)] * 2), axis=-1).reshape(-1, 2) + 1e4
    for k in (1, 2, 3):
        result = precision_recall(lattice[::2], lattice, k=k)
        assert result.precision == literal_share(lattice[::2], lattice, k)
        assert result.recall == literal_share(lattice, lattice[::2], k)
    # Duplicates have neighbourhoods of radius 0, and each still lies in its own.
    copies = np.repeat(features(3, width=4, seed=3), 5, axis=0)
    assert precision_recall(copies, copies)[:2] == (1.0, 1.0)


def test_precision_and_recall_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="k must be between 1 and 2, got 3"):
        precision_recall(features(3), features(9))
    with pytest.raises(ValueError, match="NaN"):
        precision_recall(np.full((5, 2), np.nan), features(5, width=2))
    with pytest.raises(ValueError, match=r"\[n, D\]"):
        precision_recall(features(5), features(5, width=2))


def literal_inception_score(logits: np.ndarray, splits: int) -> list[float]:
    n = len(logits)
    scores = []
    for part in range(splits):
        rows = logits[part * n // splits : (part + 1) * n // splits]
        shares = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in rows]
        mean = [sum(column) / len(rows) for column in zip(*shares, strict=True)]
        kl = [sum(p * math.log(p / q) for p, q in zip(row, mean, strict=True)) for row in shares]
        scores.append(math.exp(sum(kl) / len(rows)))
    return scores


@pytest.mark.parametrize("splits", [1, 4, 10])
def test_inception_score_equals_the_literal_formula_in_torch_fidelity_s_order(splits):
    logits = 2 * features(41, width=7, seed=4)
    in_order = literal_inception_score(logits, splits)
    result = inception_score(logits, splits=splits, seed=None)
    assert result == pytest.approx((np.mean(in_order), np.std(in_order)), rel=1e-12, abs=1e-13)
    shuffled = logits[np.random.RandomState(2020).permutation(41)]
    expected = literal_inception_score(shuffled, splits)
    result = inception_score(torch.from_numpy(logits), splits=splits, seed=2020)
    assert result == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-12, abs=1e-13)


def test_inception_score_of_known_logits():
    sure = 1000 * np.eye(5).repeat(4, axis=0)  # each class alike often, each sample sure
    assert inception_score(sure, splits=1, seed=0) == pytest.approx((5.0, 0.0))
    alike = np.zeros((20, 5))
    assert inception_score(alike, splits=4, seed=0) == pytest.approx((1.0, 0.0))
    one_class = 5000 * np.eye(5)[np.zeros(20, int)]  # the other classes underflow to 0
    assert inception_score(one_class, splits=2, seed=0) == (1.0, 0.0)


def test_inception_score_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="splits must be between 1 and 5 samples, got 10"):
        inception_score(features(5), splits=10, seed=0)
    with pytest.raises(ValueError, match="finite"):
        inception_score(np.full((5, 2), np.nan), splits=1, seed=0)
