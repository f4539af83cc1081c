"""VGGish as an extractor: a sound → patches of 0.96 s → features, of all of which FAD is taken.

The way to patches is that of AudioSet (``mel_features.py`` and ``vggish_params.py`` of
https://github.com/tensorflow/models/tree/master/research/audioset/vggish), which torchvggish has
taken over: magnitudes, not powers, on HTK's mel scale; log(mel + 0.01); nothing is padded.

Deviation: the tools resample by resampy, here it is the windowed sinc of the other networks; and of
a sound that is too short for one patch they go on without it, here it is an error.

Notation: n samples, T frames, F frequencies, M mel bands, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from llmbind_cli.errors import InputDataError
from llmbind_cli.metrics.extractors.extractor import Array, Extracted, Sound
from llmbind_cli.metrics.extractors.published import LocatedWeights, read_tensors
from llmbind_cli.metrics.extractors.vggish_network import (
    CONVOLUTIONS,
    LINEARS,
    MEL_BANDS,
    PATCH_FRAMES,
    Vggish,
)
from llmbind_cli.metrics.resampling import resample
from llmbind_cli.weights.tensors import check_tensors

RATE_HZ = 16_000
WINDOW, HOP, TRANSFORM = 400, 160, 512
LOW_HZ, HIGH_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
LEAST_SAMPLES = WINDOW + HOP * (PATCH_FRAMES - 1)
"""Samples of one patch: 0.975 s."""

_BATCH_SIZE = 64
"""Patches that go through the network at once."""


class VggishExtractor:
    """The extractor behind FAD-vggish.

    Args:
        weights: Of torchvggish's layout; a network of other widths is taken too, and is told from
            the published one by its hash.
        device: Where it runs.

    Raises:
        IntegrityError: Weights are missing, unexpected, of another shape, or not finite.
    """

    preprocessing = (
        f"mean of the channels; resampled to {RATE_HZ} Hz (Hann-windowed sinc, width 6, roll-off "
        f"0.99); frames of {WINDOW}, hop {HOP}, magnitudes of {TRANSFORM} points, {MEL_BANDS} mel "
        f"bands (HTK) of {LOW_HZ:g} to {HIGH_HZ:g} Hz, log(mel + {LOG_OFFSET}); patches of "
        f"{PATCH_FRAMES} frames, one after the other, the rest left out; features before the last "
        "ReLU, without whitening and rounding, as frechet_audio_distance and audioldm_eval"
    )

    def __init__(self, weights: LocatedWeights, *, device: torch.device) -> None:
        self.weights, self.device = weights, device
        path, tensors = read_tensors(weights)
        sizes = {key: len(value) for key, value in tensors.items() if value.dim()}
        *hidden, features = (sizes.get(f"embeddings.{place}.bias", 1) for place in LINEARS)
        with torch.device("meta"):
            network = Vggish(
                channels=[sizes.get(f"features.{place}.bias", 1) for place in CONVOLUTIONS],
                hidden=hidden,
                features=features,
            )
        expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        check_tensors(path, tensors, expected)
        network.to_empty(device="cpu").load_state_dict(tensors)
        self.network = network.to(device).eval()

    def extract(self, prepared: Sequence[Array]) -> Extracted:
        """Turn patches, [96, 64] each, into features, [B, 128]."""
        found = []
        for start in range(0, len(prepared), _BATCH_SIZE):
            group = np.stack(prepared[start : start + _BATCH_SIZE])
            with torch.inference_mode():
                features = self.network(torch.from_numpy(group).to(self.device))
            found.append(features.double().cpu().numpy())
        return Extracted(np.concatenate(found))

    def prepare(self, medium: Sound) -> Array:
        """Cut a sound into patches: float32, [P, 96, 64], P ≥ 1.

        Raises:
            InputDataError: It is shorter than a patch.
        """
        mono = medium.samples.mean(axis=0)
        heard = resample(mono, medium.sample_rate_hz, RATE_HZ)
        if len(heard) < LEAST_SAMPLES:
            raise InputDataError(
                f"lasts {len(heard) / RATE_HZ:.3f} s, and VGGish hears nothing of a sound shorter "
                f"than {LEAST_SAMPLES / RATE_HZ} s"
            )
        bands = log_mel(heard)
        patches: Array = bands[: len(bands) // PATCH_FRAMES * PATCH_FRAMES]
        return patches.reshape(-1, PATCH_FRAMES, MEL_BANDS).astype(np.float32)


def log_mel(samples: Array) -> Array:
    """Give log(mel + 0.01) of a sound at 16 kHz: [n] → float64, [T, M], T = (n − 240) // 160."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), WINDOW)[::HOP]
    turns = np.arange(WINDOW) / WINDOW
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * turns)
    magnitudes = np.abs(np.fft.rfft(frames * hann, TRANSFORM))  # [T, F]
    bands: Array = np.log(magnitudes @ mel_matrix() + LOG_OFFSET)
    return bands


@lru_cache(maxsize=1)
def mel_matrix() -> Array:
    """Give the weights of frequencies in mel bands, [F, M]: triangles on the mel axis, no DC."""
    frequencies = np.linspace(0, RATE_HZ / 2, TRANSFORM // 2 + 1)
    mels = _to_mel(frequencies)[:, None]  # [F, 1]
    lowest, highest = _to_mel(np.array([LOW_HZ, HIGH_HZ]))
    edges = np.linspace(lowest, highest, MEL_BANDS + 2)
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mels - left) / (middle - left), (right - mels) / (right - middle)
    weights: Array = np.maximum(0, np.minimum(rising, falling))
    weights[0] = 0
    return weights


def _to_mel(hertz: Array) -> Array:
    """The mel scale of HTK."""
    mels: Array = 1127 * np.log1p(hertz / 700)
    return mels
