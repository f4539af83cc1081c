"""PSNR and SSIM beside torchmetrics and the literal windows; bootstrap intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmbind_cli.metrics.bootstrap import bootstrap_interval
from llmbind_cli.metrics.psnr import psnr
from llmbind_cli.metrics.ssim import ssim


def pictures(height: int = 17, width: int = 13, seed: int = 0):
    generator = np.random.default_rng(seed)
    true = generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    noise = generator.integers(-30, 31, size=true.shape)
    return np.clip(true + noise, 0, 255).astype(np.uint8), true


def literal_ssim(x: np.ndarray, y: np.ndarray) -> float:
    weights = np.array([
        [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
        for i in range(11)
    ])  # fmt: skip
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = (np.pad(z, ((5, 5), (5, 5), (0, 0)), mode="reflect") for z in (x, y))
    values = []
    for channel in range(3):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                a = x[top : top + 11, left : left + 11, channel].astype(float)
                b = y[top : top + 11, left : left + 11, channel].astype(float)
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a = (weights * (a - mean_a) ** 2).sum()
                var_b = (weights * (b - mean_b) ** 2).sum()
                cov = (weights * (a - mean_a) * (b - mean_b)).sum()
                top_part = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
                values.append(top_part / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


def test_ssim_equals_the_literal_windows():
    made, true = pictures()
    assert ssim(made, true) == pytest.approx(literal_ssim(made, true), rel=1e-11)


def test_ssim_and_psnr_equal_torchmetrics():
    image = pytest.importorskip(
        "torchmetrics.functional.image", reason="torchmetrics is in the extra eval"
    )
    made, true = pictures(40, 31)
    batch = [torch.from_numpy(z).permute(2, 0, 1)[None].double() for z in (made, true)]
    expected = image.structural_similarity_index_measure(*batch, data_range=255.0).item()
    # Sums of 121 products in another order, in float64.
    assert ssim(made, true) == pytest.approx(expected, rel=1e-11)
    expected = image.peak_signal_noise_ratio(*batch, data_range=255.0).item()
    assert psnr(made, true) == pytest.approx(expected, rel=1e-6)


def test_known_values():
    made, true = pictures()
    assert ssim(true, true) == pytest.approx(1.0, abs=1e-14)
    assert psnr(true, true) == math.inf
    # Every value is off by 1: 20 · log10(255)
    level = np.full((12, 12, 3), 100, np.uint8)
    assert psnr(level + 1, level) == pytest.approx(48.130803608679)
    assert psnr(np.zeros(5), np.full(5, 255)) == 0.0
    # Two flat pictures: (2ab + c1) / (a² + b² + c1)
    c1 = (0.01 * 255) ** 2
    assert ssim(level + 50, level) == pytest.approx((30000 + c1) / (32500 + c1), rel=1e-9)
    assert ssim(made, true) == pytest.approx(0.9722478138324018, rel=1e-11)  # literal_ssim
    assert ssim(made[..., 0], true[..., 0]) == pytest.approx(ssim(made[..., :1], true[..., :1]))


def test_both_are_symmetric_and_fall_with_noise():
    made, true = pictures()
    assert ssim(made, true) == pytest.approx(ssim(true, made), rel=1e-12)
    assert psnr(made, true) == psnr(true, made)
    worse = np.clip(true + 3 * (made.astype(int) - true), 0, 255)
    assert ssim(worse, true) < ssim(made, true)
    assert psnr(worse, true) < psnr(made, true)
    assert psnr(made / 255, true / 255, data_range=1.0) == pytest.approx(psnr(made, true))
    assert ssim(made / 255, true / 255, data_range=1.0) == pytest.approx(ssim(made, true))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_sizes_that_differ_are_refused(metric):
    with pytest.raises(ValueError, match=r"one size, got \(17, 13, 3\) and \(13, 17, 3\)"):
        metric(pictures()[0], pictures(13, 17)[0])
    with pytest.raises(ValueError, match="data_range must be > 0"):
        metric(*pictures(), data_range=0)


def test_ssim_needs_enough_to_mirror():
    assert 0 < ssim(*pictures(6, 30)) < 1
    with pytest.raises(ValueError, match="at least 6 px"):
        ssim(*pictures(5, 30))


def test_interval_of_a_mean_equals_the_normal_theory():
    values = np.random.default_rng(0).normal(size=2000)
    low, high = bootstrap_interval(values, resamples=4000, seed=1)
    error = 1.96 * values.std() / math.sqrt(2000)
    # The bounds are quantiles of 4000 draws: off by a few hundredths of the half width.
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_interval_equals_a_plain_loop():
    tops, bottoms = np.arange(1.0, 8.0), np.arange(3.0, 10.0)
    drawn = np.random.default_rng(5).integers(0, 7, size=(200, 7))
    figures = [sum(tops[i] for i in row) / sum(bottoms[i] for i in row) for row in drawn]
    expected = np.quantile(figures, [0.05, 0.95])
    result = bootstrap_interval(tops, bottoms, level=0.9, resamples=200, seed=5)
    assert result == pytest.approx(tuple(expected), rel=1e-12)


def test_intervals_of_known_items():
    assert bootstrap_interval([3.0] * 9, seed=0) == (3.0, 3.0)
    assert bootstrap_interval([0.7], seed=0) == (0.7, 0.7)
    assert bootstrap_interval([0, 0], [0, 0], seed=0) == (1.0, 1.0)
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"n ≥ 1, got \(0,\)"):
        bootstrap_interval([], seed=0)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        bootstrap_interval([1, 2], [1, 2, 3], seed=0)
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\)"):
        bootstrap_interval([1, 2], level=1.0, seed=0)
