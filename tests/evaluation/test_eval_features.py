"""``llmbind eval`` on sets of pictures, with a small extractor in place of the real one."""

from __future__ import annotations

import json

import pytest
from colour_features import colours

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import ModelNotFoundError
from llmbind_cli.evaluation import feature_scores
from llmbind_cli.metrics.extractors import efficientnet_lite
from llmbind_cli.metrics.frechet import frechet_distance_from_features
from llmbind_cli.metrics.kernel_distance import kernel_distance
from llmbind_cli.metrics.precision_recall import precision_recall

ALL = ("FD-effnet-lite0", "KID-effnet-lite0", "precision", "recall")


def features_of(folder):
    return colours(None, [read_picture(path) for path in sorted(folder.glob("*.png"))])


def options(made, true):
    names = [word for name in ALL for word in ("--metric", name)]
    return [*names, "--pred", made, "--ref", true]


def test_scores_equal_the_functions_on_the_same_features(by_colour, pictures, run):
    made, true = pictures("made", n=9, seed=1), pictures("true", n=12, seed=2, side=20)
    code, out, error = run(*options(made, true), "--seed", 3, "--json")
    report = json.loads(out)
    metrics = report["metrics"]
    x, y = features_of(made), features_of(true)
    assert code == 0
    expected = frechet_distance_from_features(x, y)
    assert metrics["FD-effnet-lite0"]["value"] == pytest.approx(expected, rel=1e-9)
    kid = kernel_distance(x, y, subset_size=9, seed=3)
    assert metrics["KID-effnet-lite0"]["value"] == pytest.approx(kid.mean, rel=1e-9)
    assert metrics["KID-effnet-lite0"]["std"] == pytest.approx(kid.std, rel=1e-9)
    shares = precision_recall(x, y)
    assert metrics["precision"]["value"] == pytest.approx(shares.precision)
    assert metrics["recall"]["value"] == pytest.approx(shares.recall)
    assert (metrics["precision"]["n"], metrics["recall"]["n"]) == (9, 12)
    assert metrics["FD-effnet-lite0"]["interval"] is None
    assert "biased upwards: 9 samples are fewer than 2048" in error
    assert "subsets of 9 samples, where 1000 are customary" in error
    (card,) = report["protocol"]["scorings"]
    assert card["backbone"]["sha256"] == efficientnet_lite.PRETRAINED_SHA256
    assert "224 × 224" in card["preprocessing"]
    assert card["parameters"] == {"subsets": 100, "subset_size": 9, "k": 3, "device": "cpu"}


def test_names_and_batches_do_not_matter(by_colour, pictures, run):
    made, true = pictures("made", n=7, seed=1), pictures("true", n=7, seed=2)
    first = json.loads(run(*options(made, true), "--json")[1])["metrics"]
    for number in range(7):
        (made / f"{number}.png").rename(made / f"x{6 - number}.png")
    second = json.loads(run(*options(made, true), "--batch-size", 2, "--json")[1])["metrics"]
    for name in ALL:
        assert second[name]["value"] == pytest.approx(first[name]["value"], rel=1e-9, abs=1e-12)


def test_from_2048_samples_on_nothing_is_said(by_colour, pictures, run, monkeypatch):
    monkeypatch.setattr(feature_scores, "UNBIASED_FROM", 5)
    made, true = pictures("made", seed=1), pictures("true", seed=2)
    _, out, error = run("--metric", "FD-effnet-lite0", "--pred", made, "--ref", true, "--json")
    assert json.loads(out)["metrics"]["FD-effnet-lite0"]["notes"] == []
    assert "warning" not in error


@pytest.mark.parametrize(("metric", "n", "least"), [("FD-effnet-lite0", 1, 2), ("recall", 3, 4)])
def test_too_few_samples_are_refused(by_colour, pictures, run, metric, n, least):
    made, true = pictures("made", n=n), pictures("true")
    code, _, error = run("--metric", metric, "--pred", made, "--ref", true)
    assert code == 65
    assert f"at least {least} files a side are needed, got {n} predictions" in error


def test_every_file_that_is_no_picture_is_listed(by_colour, pictures, run):
    made, true = pictures("made"), pictures("true")
    (made / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (true / "0.png").write_bytes((true / "0.png").read_bytes()[:300])
    code, out, error = run(*options(made, true))
    assert (code, out) == (65, "")
    assert ": 2 inputs cannot be scored" in error
    assert "clip.mp4: cannot be read as a picture" in error
    assert "true/0.png: cannot be read as a picture" in error


def test_a_lower_distance_is_better(by_colour, pictures, run):
    made, true = pictures("made", seed=1), pictures("true", seed=2)
    sides = ("--metric", "FD-effnet-lite0", "--pred", made, "--ref", true)
    assert run(*sides, "--fail-over", "FD-effnet-lite0=0")[0] == 4
    assert run(*sides, "--fail-over", "FD-effnet-lite0=1000")[0] == 0
    assert run(*sides, "--fail-under", "FD-effnet-lite0=0")[0] == 2


def test_without_weights_and_network_it_is_10_and_tells_how_to_get_them(
    pictures, run, tmp_path, monkeypatch
):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    made, true = pictures("made"), pictures("true")
    code, out, error = run(*options(made, true), "--offline")
    assert (code, out) == (ModelNotFoundError.exit_code, "")
    assert "fetch it with: python -c" in error
