"""Resampling beside the sum that defines it, and beside torchaudio where that loads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmbind_cli.metrics.resampling import resample


def literal(samples, old_hz, new_hz, width=6, roll_off=0.99):
    """The sum over all samples, output by output."""
    divisor = math.gcd(old_hz, new_hz)
    old, new = old_hz // divisor, new_hz // divisor
    cutoff = min(old, new) * roll_off
    result = []
    for m in range(math.ceil(len(samples) * new / old)):
        total = 0.0
        for k, value in enumerate(samples):
            t = cutoff * (k / old - m / new)
            if abs(t) < width:
                window = math.cos(math.pi * t / (2 * width)) ** 2
                total += value * np.sinc(t) * window
        result.append(total * cutoff / old)
    return np.array(result)


@pytest.mark.parametrize(
    ("old", "new"), [(48_000, 16_000), (44_100, 16_000), (16_000, 32_000), (22_050, 32_000), (7, 5)]
)
def test_it_equals_the_literal_sum(old, new):
    samples = np.random.default_rng(0).normal(size=203).astype(np.float32)
    ours = resample(samples, old, new)
    expected = literal(samples, old, new)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-6)  # float32 results


def test_rates_without_a_common_divisor_do_not_fill_memory():
    samples = np.sin(2 * np.pi * 440 * np.arange(44_099) / 44_099)
    ours = resample(samples, 44_099, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(
        ours[100:-100], expected[100:-100], atol=2e-3
    )  # ripple of the window


def test_equal_rates_change_nothing():
    samples = np.random.default_rng(0).normal(size=10).astype(np.float32)
    np.testing.assert_array_equal(resample(samples, 16_000, 16_000), samples)


def test_wrong_rates_and_shapes_are_refused():
    for samples, old, new in ((np.zeros(3), 0, 1), (np.zeros(3), 1, 0), (np.zeros((1, 3)), 2, 1)):
        with pytest.raises(ValueError, match="rates ≥ 1"):
            resample(samples, old, new)


def test_it_equals_torchaudio():
    reason = "torchaudio does not load on a CPU-only torch everywhere, and is no dependency"
    torchaudio = pytest.importorskip("torchaudio", reason=reason, exc_type=(ImportError, OSError))
    samples = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    theirs = torchaudio.functional.resample(torch.from_numpy(samples), 44_100, 16_000).numpy()
    np.testing.assert_allclose(resample(samples, 44_100, 16_000), theirs, atol=1e-5)
