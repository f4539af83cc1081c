"""Statistics as references, and distances at infinitely many samples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmbind_cli.evaluation import feature_scores
from llmbind_cli.metrics.extractors import efficientnet_lite
from llmbind_cli.metrics.frechet import frechet_distance
from llmbind_cli.metrics.frechet_extrapolation import extrapolated_frechet_distance, subset_sizes

DISTANCE = ("--metric", "FD-effnet-lite0")


def test_the_line_goes_through_the_distances():
    x = np.random.default_rng(0).normal(size=(400, 5))
    line = extrapolated_frechet_distance(x, np.zeros(5), np.eye(5), seed=1)
    assert line.sizes == [100, 121, 143, 164, 186, 207, 229, 250, 271, 293, 314, 336, 357, 379, 400]
    draws = np.random.default_rng(1)
    distances = []
    for size in line.sizes:
        subset = x[draws.permutation(400)[:size]]
        covariance = np.cov(subset.T)
        distances.append(frechet_distance(subset.mean(0), covariance, np.zeros(5), np.eye(5)))
    assert line.distances == pytest.approx(distances, rel=1e-9)
    design = np.stack([np.ones(15), 1 / np.array(line.sizes)], axis=1)
    intercept, slope = np.linalg.lstsq(design, np.array(distances), rcond=None)[0]
    assert (line.value, line.slope) == pytest.approx((intercept, slope), rel=1e-8)


def test_it_takes_most_of_the_bias_away():
    """Samples of the very distribution of the references, so the true distance is 0."""
    plain, infinite = [], []
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(1500, 12))
        line = extrapolated_frechet_distance(x, np.zeros(12), np.eye(12), seed=seed)
        plain.append(line.distances[-1])
        infinite.append(line.value)
    # The bias is tr Σ · (D + 1) / 4N + |Σ| / N to first order; a tenth of it may be left.
    assert abs(np.mean(infinite)) < 0.25 * np.mean(plain)
    assert np.mean(plain) > 0.01


def test_sizes_start_at_5000_where_there_are_enough():
    assert subset_sizes(50_000)[0] == 5000
    assert subset_sizes(50_000)[-1] == 50_000
    assert subset_sizes(400)[0] == 100
    with pytest.raises(ValueError, match="n ≥ 100"):
        subset_sizes(99)


def test_it_stands_in_the_report_under_its_own_name(by_colour, pictures, run):
    made, true = pictures("made", n=120, side=6, seed=1), pictures("true", n=30, side=6, seed=2)
    sides = ("--pred", made, "--ref", true, "--json")
    code, out, error = run(*DISTANCE, "--extrapolate", *sides)
    report = json.loads(out)
    assert code == 0, error
    assert list(report["metrics"]) == ["FD-effnet-lite0", "FD-effnet-lite0-infinity"]
    entry = report["metrics"]["FD-effnet-lite0-infinity"]
    assert (entry["n"], entry["higher_is_better"]) == (120, False)
    assert "extrapolated from subsets of 30 to 120 predictions" in entry["notes"][0]
    assert "biased upwards: 30 samples are fewer than 2048" in error
    (card,) = report["protocol"]["scorings"]
    assert card["parameters"]["extrapolation_sizes"] == [30, 120]
    again = json.loads(run("--metric", "FD-effnet-lite0-infinity", *sides)[1])
    assert again["metrics"]["FD-effnet-lite0-infinity"] == entry
    code, _, error = run(*DISTANCE, "--extrapolate", "--pred", true, "--ref", made)
    assert code == 65
    assert "at least 100 predictions are needed, got 30" in error
    assert run("--metric", "PSNR", "--extrapolate", *sides)[0] == 2


def test_statistics_are_references(by_colour, pictures, run, tmp_path):
    made, true = pictures("made", n=9, seed=1), pictures("true", n=12, seed=2)
    stats = tmp_path / "true.npz"
    code, out, error = run(*DISTANCE, "--ref", true, "--save-stats", stats)
    assert (code, out) == (0, ""), error
    with np.load(stats, allow_pickle=False) as content:
        assert {"mu", "sigma"} <= set(content.files)
        assert content["sigma"].shape == (6, 6)
    outs = [
        json.loads(run(*DISTANCE, "--pred", made, "--ref", ref, "--json")[1])
        for ref in (true, stats)
    ]
    values = [out["metrics"]["FD-effnet-lite0"]["value"] for out in outs]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    (card,) = outs[1]["protocol"]["scorings"]
    assert (card["references"]["kind"], card["references"]["count"]) == ("statistics", 12)
    both = tmp_path / "both.npz"
    assert run(*DISTANCE, "--pred", made, "--ref", true, "--save-stats", both)[0] == 0
    with np.load(stats) as first, np.load(both) as second:
        np.testing.assert_array_equal(first["sigma"], second["sigma"])


def test_pytorch_fid_s_statistics_are_taken_and_say_less(by_colour, pictures, run, tmp_path):
    made = pictures("made", n=9, seed=1)
    np.savez(tmp_path / "s.npz", mu=np.zeros(6), sigma=np.eye(6))  # as pytorch-fid writes them
    code, out, error = run(*DISTANCE, "--pred", made, "--ref", tmp_path / "s.npz", "--json")
    report = json.loads(out)
    assert code == 0, error
    assert report["protocol"]["scorings"][0]["references"]["count"] is None
    assert "the statistics do not tell of how many references they are" in error


def test_statistics_that_do_not_fit_are_refused(by_colour, pictures, run, tmp_path):
    made, stats = pictures("made", n=9, seed=1), tmp_path / "s.npz"
    sides = ("--pred", made, "--ref", stats)
    np.savez(stats, mu=np.zeros(5), sigma=np.eye(5))
    code, _, error = run(*DISTANCE, *sides)
    assert code == 65
    assert "are statistics of 5 features, and the network gives 6" in error
    np.savez(stats, mu=np.zeros(6), sigma=np.eye(6), extractor_sha256=np.array("f" * 64))
    code, _, error = run(*DISTANCE, *sides)
    assert code == 65
    assert "are statistics of other features: sha256 is ffff" in error
    assert efficientnet_lite.PRETRAINED_SHA256 in error
    np.savez(stats, mu=np.zeros(6), sigma=np.eye(6))
    for metric in ("KID-effnet-lite0", "precision"):
        code, _, error = run("--metric", metric, *sides)
        assert code == 2
        assert f"{metric}: needs the references themselves" in error
    assert run(*DISTANCE, *sides, "--save-stats", tmp_path / "x.npz")[0] == 2
    np.savez(stats, mu=np.full(6, np.nan), sigma=np.eye(6))
    assert run(*DISTANCE, *sides)[0] == 65
    assert run("--metric", "PSNR", "--ref", made, "--save-stats", tmp_path / "x.npz")[0] == 2


def test_batches_threads_order_and_streaming_change_nothing(
    by_colour, pictures, run, monkeypatch, tmp_path
):
    made, true = pictures("made", n=40, seed=1), pictures("true", n=50, seed=2)
    names = [w for n in ("FD-effnet-lite0", "KID-effnet-lite0", "recall") for w in ("--metric", n)]
    sides = ("--pred", made, "--ref", true, "--json", "--no-cache")
    first = json.loads(run(*names, *sides)[1])["metrics"]
    for options in (("--batch-size", 1), ("--batch-size", 7, "--workers", 5), ("--workers", 1)):
        assert json.loads(run(*names, *sides, *options)[1])["metrics"] == first
    monkeypatch.setattr(feature_scores, "_HELD", 10)  # from here on in one pass, block by block
    for block in (1024, 7):
        monkeypatch.setattr("llmbind_cli.evaluation.features._BLOCK", block)
        out = run(*DISTANCE, "--pred", made, "--ref", true, "--json")[1]
        value = json.loads(out)["metrics"]["FD-effnet-lite0"]["value"]
        assert value == pytest.approx(first["FD-effnet-lite0"]["value"], rel=1e-11)
