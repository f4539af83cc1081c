"""Running mean and covariance: parts, order, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbind_cli.errors import InputDataError
from llmbind_cli.metrics.feature_statistics import (
    FeatureStatistics,
    read_statistics,
    write_statistics,
)


def samples(n: int = 57, width: int = 5) -> np.ndarray:
    # A mean far from 0, where sums of squares in one go would lose their digits.
    return np.random.default_rng(0).normal(size=(n, width)) + 1e6


@pytest.mark.parametrize("batch", [1, 7, 57, 100])
def test_statistics_equal_numpy_s_whatever_the_batches(batch):
    x = samples()
    running = FeatureStatistics(width=5)
    for start in range(0, len(x), batch):
        running.update(torch.from_numpy(x[start : start + batch]))
    running.update(np.empty((0, 5)))
    assert running.n == 57
    np.testing.assert_allclose(running.mean, x.mean(axis=0), rtol=1e-14)
    # 1e6 has an error of 1e-10 in float64, so a variance of 1 has one of about 1e-9.
    np.testing.assert_allclose(running.covariance, np.cov(x, rowvar=False), rtol=0, atol=1e-8)


def test_merged_parts_equal_the_whole():
    x = samples()
    parts = [FeatureStatistics(width=5).update(part) for part in (x[:20], x[20:21], x[21:], x[:0])]
    merged = FeatureStatistics(width=5)
    for part in parts[::-1]:
        merged.merge(part)
    whole = FeatureStatistics(width=5).update(x)
    assert merged.n == whole.n
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-15)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=0, atol=1e-8)


def test_two_samples_by_hand():
    running = FeatureStatistics(width=2).update([[1.0, 0.0]]).update([[3.0, 4.0]])
    np.testing.assert_array_equal(running.mean, [2.0, 2.0])
    np.testing.assert_array_equal(running.covariance, [[2.0, 4.0], [4.0, 8.0]])


def test_a_file_is_what_pytorch_fid_reads_and_writes(tmp_path):
    running = FeatureStatistics(width=5).update(samples())
    write_statistics(tmp_path / "ours.npz", running)
    with np.load(tmp_path / "ours.npz") as content:  # pytorch_fid.fid_score, lines of --save-stats
        np.testing.assert_array_equal(content["mu"][:], running.mean)
        np.testing.assert_array_equal(content["sigma"][:], running.covariance)
    assert read_statistics(tmp_path / "ours.npz").n == 57
    np.savez_compressed(tmp_path / "theirs.npz", mu=running.mean, sigma=running.covariance)
    theirs = read_statistics(tmp_path / "theirs.npz")
    np.testing.assert_array_equal(theirs.mean, running.mean)
    np.testing.assert_array_equal(theirs.covariance, running.covariance)
    assert (theirs.n, theirs.extractor) == (None, {})
    write_statistics(tmp_path / "named.npz", running, extractor={"sha256": "0f", "name": "x"})
    assert read_statistics(tmp_path / "named.npz").extractor == {"sha256": "0f", "name": "x"}


def test_bad_files_and_features_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InputDataError, match=r"x\.npz: no statistics"):
        read_statistics(path)
    np.savez(path, mu=np.array([object()]), sigma=np.eye(1))
    with pytest.raises(InputDataError, match="no statistics"):
        read_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(InputDataError, match=r"mu must be \[D\]"):
        read_statistics(path)
    running = FeatureStatistics(width=3)
    with pytest.raises(ValueError, match=r"\[B, 3\]"):
        running.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="NaN"):
        running.update(np.full((2, 3), np.inf))
    with pytest.raises(ValueError, match="at least 2 samples, got 0"):
        _ = running.covariance
    with pytest.raises(ValueError, match="widths differ: 3 and 2"):
        running.merge(FeatureStatistics(width=2))
    with pytest.raises(ValueError, match="width must be ≥ 1"):
        FeatureStatistics(width=0)
