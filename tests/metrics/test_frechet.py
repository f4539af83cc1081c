"""The Fréchet distance beside the eigenvalues of Σ₁ Σ₂, scipy's matrix root and known cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbind_cli.metrics import frechet
from llmbind_cli.metrics.frechet import frechet_distance, frechet_distance_from_features

# Sums of a few hundred products in float64, and the root of their difference.
EXACT = 1e-9


def features(n: int, width: int, seed: int, *, rank: int | None = None) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(rank or width, width))
    return generator.normal(size=(n, rank or width)) @ mixing + generator.normal(size=width)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def by_eigenvalues(x: np.ndarray, y: np.ndarray) -> float:
    """As torchmetrics and torch-fidelity have it; the product is not symmetric."""
    (mu1, sigma1), (mu2, sigma2) = moments(x), moments(y)
    roots = np.sqrt(np.linalg.eigvals(sigma1 @ sigma2).astype(complex)).real
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2) - 2 * roots.sum())


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 12), (40, 300, 30), (64, 64, 1)])
def test_distance_equals_the_eigenvalues_of_the_product(n, m, width):
    x, y = features(n, width, 0), features(m, width, 1)
    expected = by_eigenvalues(x, y)
    (mu1, sigma1), (mu2, sigma2) = moments(x), moments(y)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=EXACT)
    assert frechet_distance_from_features(x, y) == pytest.approx(expected, rel=EXACT)


def test_distance_equals_scipy_s_matrix_root():
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is in the extra eval")
    x, y = features(300, 20, 2), features(250, 20, 3)
    (mu1, sigma1), (mu2, sigma2) = moments(x), moments(y)
    root = linalg.sqrtm(sigma1 @ sigma2)
    expected = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * root.real)
    assert frechet_distance_from_features(x, y) == pytest.approx(expected, rel=EXACT)


def test_distance_equals_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics: extra eval")
    x, y = features(300, 20, 2), features(250, 20, 3)
    parts = [torch.from_numpy(part) for z in (x, y) for part in moments(z)]
    expected = fid._compute_fid(*parts).item()
    assert frechet_distance_from_features(x, y) == pytest.approx(expected, rel=EXACT)


def test_frozen_value():
    # by_eigenvalues(features(50, 6, 7), features(80, 6, 8)), numpy 2.4.6
    value = frechet_distance_from_features(features(50, 6, 7), features(80, 6, 8))
    assert value == pytest.approx(23.283444133972736, rel=EXACT)


def test_diagonal_covariances_by_hand():
    # Σ (√a − √b)² = (1 − 2)² + (3 − 3)² + (0 − 4)², and |μ₁ − μ₂|² = 9
    sigma1, sigma2 = np.diag([1.0, 9.0, 0.0]), np.diag([4.0, 9.0, 16.0])
    value = frechet_distance([3.0, 0.0, 0.0], sigma1, np.zeros(3), sigma2)
    assert value == pytest.approx(1 + 16 + 9, rel=1e-14)
    zero = np.zeros((3, 3))
    assert frechet_distance(np.zeros(3), zero, np.zeros(3), sigma2) == pytest.approx(29)
    assert frechet_distance(np.zeros(3), zero, np.zeros(3), zero) == 0.0


@pytest.mark.parametrize(("n", "m"), [(10, 8), (8, 200), (200, 8), (25, 24)])
def test_few_samples_equal_the_singular_covariances(n, m):
    """n ≤ D: the nuclear norm of the features, and the factors of singular covariances."""
    x, y = features(n, 24, 4), features(m, 24, 5)
    (mu1, sigma1), (mu2, sigma2) = moments(x), moments(y)
    from_features = frechet_distance_from_features(x, y)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(from_features, rel=EXACT)
    # The reference takes roots of rounding errors of about 1e-13 in the singular directions.
    assert from_features == pytest.approx(by_eigenvalues(x, y), rel=1e-6)


def test_few_samples_equal_an_embedding_in_fewer_dimensions():
    """A rotation of 3 dimensions into 40 changes nothing; in 3 both covariances are full."""
    x, y = features(30, 3, 4), features(20, 3, 5)
    rotation = np.linalg.qr(np.random.default_rng(6).normal(size=(40, 40)))[0][:3]
    wide = frechet_distance_from_features(x @ rotation, y @ rotation)
    assert wide == pytest.approx(by_eigenvalues(x, y), rel=EXACT)


@pytest.mark.parametrize("block", [1, 7, 20, 64])
def test_blocks_equal_the_whole_product(monkeypatch, block):
    monkeypatch.setattr(frechet, "_BLOCK", block)
    sigma1, sigma2 = (np.cov(features(60, 20, seed), rowvar=False) for seed in (0, 1))
    lower = np.linalg.cholesky(sigma1)
    expected = np.tril(lower.T @ sigma2 @ lower)
    half = np.tril(frechet._lower_half(lower, sigma2))
    np.testing.assert_allclose(half, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_both_ways_equal_on_a_falling_spectrum(monkeypatch):
    """Deviations from 1 to 1e-3, as networks have them, still take the fast way."""
    scales = np.logspace(0, -3, 30)
    x, y = (np.random.default_rng(seed).normal(size=(90, 30)) * scales for seed in (0, 1))
    (mu1, sigma1), (mu2, sigma2) = moments(x), moments(y)
    with monkeypatch.context() as patch:
        patch.setattr(frechet, "_factor", None)  # the slow way would call it
        fast = frechet_distance(mu1, sigma1, mu2, sigma2)
    monkeypatch.setattr(frechet, "_ACCURACY", 0.0)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(fast, rel=EXACT)


@pytest.mark.parametrize("rank", [None, 4])
def test_equal_sets_have_distance_0_and_order_means_nothing(rank):
    x, y = features(120, 15, 9, rank=rank), features(130, 15, 10, rank=rank)
    scale = np.trace(np.cov(x, rowvar=False))
    assert frechet_distance_from_features(x, x) <= 1e-12 * scale
    value = frechet_distance_from_features(x, y)
    assert frechet_distance_from_features(y, x) == pytest.approx(value, rel=EXACT)
    assert frechet_distance_from_features(x[::-1], y) == pytest.approx(value, rel=EXACT)
    assert frechet_distance_from_features(torch.from_numpy(x), y) == value
    assert value > 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples a side, got 1 and 5"):
        frechet_distance_from_features(np.ones((1, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"got \(4, 3\), \(4, 2\)"):
        frechet_distance_from_features(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="y holds NaN"):
        frechet_distance_from_features(np.ones((4, 3)), np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match=r"sigma \[D, D\]"):
        frechet_distance(np.zeros(3), np.eye(2), np.zeros(3), np.eye(3))
