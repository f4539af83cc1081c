"""VGGish on small random weights, beside its steps written out, and FAD by ``llmbind eval``."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tiny_extractors as tiny
import torch
from torch.nn import functional

from llmbind_cli import app
from llmbind_cli.errors import InputDataError, IntegrityError, ModelNotFoundError
from llmbind_cli.metrics.extractors import vggish
from llmbind_cli.metrics.extractors.extractor import Sound
from llmbind_cli.metrics.extractors.registry import load_extractor
from llmbind_cli.metrics.frechet import frechet_distance_from_features

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path):
    return tiny.save_file_of(tiny.vggish_state(), tmp_path / "vggish.safetensors")


def loaded(path):
    return load_extractor("vggish", chosen={"vggish": str(path)}, device=CPU, offline=True)


def sound(n, *, rate=vggish.RATE_HZ, channels=1, seed=0):
    generator = np.random.default_rng(seed)
    waves = np.sin(2 * np.pi * (200 + 300 * seed) * np.arange(n) / rate)
    samples = 0.3 * waves + generator.normal(0, 0.05, (channels, n))
    return Sound(samples=samples.astype(np.float32), sample_rate_hz=rate)


def literal_patches(samples):
    """Frame by frame and band by band: window, Fourier, magnitude, mel, logarithm; then patches."""

    def mel(hertz):
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    window = [0.5 - 0.5 * np.cos(2 * np.pi * k / 400) for k in range(400)]
    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = np.concatenate([samples[start : start + 400].astype(float) * window, np.zeros(112)])
        magnitudes = np.abs(np.fft.fft(frame)[:257])
        row = []
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            total = 0.0
            for bin_, magnitude in enumerate(magnitudes):
                at = mel(bin_ * 16_000 / 512)
                total += magnitude * max(
                    0.0, min((at - low) / (centre - low), (high - at) / (high - centre))
                )
            row.append(np.log(total + 0.01))
        rows.append(row)
    return [np.array(rows[at : at + 96]) for at in range(0, len(rows) - 95, 96)]


def literal_features(state, patch):
    """Layer by layer from the checkpoint: [96, 64] → [D]."""
    x = torch.from_numpy(patch).float()[None, None]
    for place, pooled in ((0, 1), (3, 1), (6, 0), (8, 1), (11, 0), (13, 1)):
        weight, bias = (state[f"features.{place}.{part}"] for part in ("weight", "bias"))
        x = functional.conv2d(x, weight, bias, padding=1).relu()
        x = functional.max_pool2d(x, 2, 2) if pooled else x
    rows, columns = x.shape[2:]
    x = torch.cat([x[0, :, r, c] for r in range(rows) for c in range(columns)])
    for place in (0, 2, 4):
        x = functional.linear(x, *(state[f"embeddings.{place}.{p}"] for p in ("weight", "bias")))
        x = x.relu() if place < 4 else x
    return x.numpy()


def test_patches_equal_the_literal_formula(weights):
    medium = sound(vggish.LEAST_SAMPLES + 96 * 160 + 159)
    ours = loaded(weights).prepare(medium)
    expected = np.stack(literal_patches(medium.samples[0]))
    assert ours.shape == expected.shape == (2, 96, 64)
    np.testing.assert_allclose(ours, expected, atol=1e-5)  # kept as float32


def test_mel_bands_equal_those_of_transformers():
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=64,
        min_frequency=125.0,
        max_frequency=7500.0,
        sampling_rate=16_000,
        norm=None,
        mel_scale="htk",
        triangularize_in_mel_space=True,
    )
    np.testing.assert_allclose(vggish.mel_matrix(), expected, atol=1e-6)  # 1127 and 2595 log10


def test_features_equal_the_layers_one_by_one(weights):
    extractor, state = loaded(weights), tiny.vggish_state()
    patches = extractor.prepare(sound(70 * 15_360, seed=1))
    features = extractor.extract(list(patches)).features
    assert features.shape == (len(patches), 5)
    for place in (0, 1, 63, 64, len(patches) - 1):
        expected = literal_features(state, patches[place])
        np.testing.assert_allclose(features[place], expected, rtol=1e-4, atol=1e-4)  # float32
    assert np.ptp(features, axis=0).max() > 1e-3
    assert features.min() < 0  # no ReLU after the last layer


def test_channels_are_averaged_and_resampled(weights):
    extractor = loaded(weights)
    stereo = sound(50_000, rate=32_000, channels=2)
    mono = Sound(samples=stereo.samples.mean(axis=0)[None], sample_rate_hz=32_000)
    np.testing.assert_array_equal(extractor.prepare(stereo), extractor.prepare(mono))
    assert extractor.prepare(stereo).shape == (1, 96, 64)
    with pytest.raises(InputDataError, match=r"lasts 0\.975 s, .* shorter than 0\.975 s"):
        extractor.prepare(sound(vggish.LEAST_SAMPLES - 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("features.6.weight"), "features.6.weight is missing"),
        (lambda s: s.update({"pproc.pca_means": torch.zeros(5, 1)}), "pca_means is unexpected"),
        (lambda s: s["embeddings.4.bias"].fill_(torch.inf), "embeddings.4.bias contains NaN"),
        (
            lambda s: s.update({"embeddings.0.weight": torch.zeros(12, 8)}),
            "embeddings.0.weight has shape (12, 8), expected (12, 192)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, reason):
    state = tiny.vggish_state()
    change(state)
    path = tiny.save_file_of(state, tmp_path / "vggish.safetensors")
    with pytest.raises(IntegrityError, match=re.escape(reason)):
        loaded(path)


def test_without_weights_it_says_where_they_are():
    with pytest.raises(ModelNotFoundError, match=r"get vggish-10086976\.pth of .*vggish=FILE"):
        load_extractor("vggish", chosen={}, device=CPU, offline=True)


def test_fad_pools_the_patches_of_all_sounds(tmp_path, weights, capsys):
    soundfile = pytest.importorskip("soundfile", reason="sounds are decoded by soundfile")
    extractor, sides = loaded(weights), {}
    for name, lengths in (("made", (16_000, 48_000)), ("true", (33_000, 17_000, 32_000))):
        (tmp_path / name).mkdir()
        rows = []
        for number, n in enumerate(lengths):
            medium = sound(n, seed=number + len(lengths))
            path = tmp_path / name / f"{number}.wav"
            soundfile.write(path, medium.samples.T, vggish.RATE_HZ, subtype="FLOAT")
            rows.append(extractor.extract(list(extractor.prepare(medium))).features)
        sides[name] = np.concatenate(rows)
    words = ["eval", "--metric", "FAD-vggish", "--weights", f"vggish={weights}", "--json"]
    words += ["--pred", str(tmp_path / "made"), "--ref", str(tmp_path / "true")]
    capsys.readouterr()
    assert app.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    figure = report["metrics"]["FAD-vggish"]
    expected = frechet_distance_from_features(sides["made"], sides["true"])
    assert figure["value"] == pytest.approx(expected, rel=1e-4)  # float32
    assert "4 patches of 2 files beside 5 of 3" in figure["notes"]
    assert "patches of 96 frames" in report["protocol"]["scorings"][0]["preprocessing"]
    soundfile.write(tmp_path / "made" / "short.wav", np.zeros(9000), vggish.RATE_HZ)
    assert app.main(words) == 65
    assert "short.wav: lasts 0.562 s" in capsys.readouterr().err
