"""PANNs Cnn14 as an extractor of sounds, with the steps of audioldm_eval before it.

Steps (``audioldm_eval/datasets/load_mel.py`` at 2d5aad5): the first channel; its mean is taken off;
resampled by torchaudio's windowed sinc; zeros at the end up to 32,000 samples. A sound goes through
the network whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from llmbind_cli.metrics.extractors.cnn14_network import Cnn14
from llmbind_cli.metrics.extractors.extractor import Array, Extracted, Sound
from llmbind_cli.metrics.extractors.published import LocatedWeights, read_tensors
from llmbind_cli.metrics.resampling import resample
from llmbind_cli.weights.tensors import check_tensors

LEAST_SAMPLES = 32_000
_FRAMES = {16_000: (512, 160), 32_000: (1024, 320)}
"""Rate in Hz → samples of a frame and of a hop, as the published networks were trained."""

_BATCH_S = 160
"""Seconds that go through the network at once, where sounds are shorter; bounds its memory."""


class Cnn14Extractor:
    """The extractor behind FD-pann and IS-pann.

    Args:
        weights: Of the official checkpoints' layout; a network of other widths is taken too, and is
            told from the published one by its hash.
        device: Where it runs.
        sample_rate_hz: 16,000 or 32,000.

    Raises:
        IntegrityError: Weights are missing, unexpected, of another shape, or not finite.
    """

    def __init__(
        self, weights: LocatedWeights, *, device: torch.device, sample_rate_hz: int
    ) -> None:
        self.weights, self.device, self.sample_rate_hz = weights, device, sample_rate_hz
        window, hop = _FRAMES[sample_rate_hz]
        self.preprocessing = (
            f"first channel; mean taken off; resampled to {sample_rate_hz} Hz (Hann-windowed sinc, "
            f"width 6, roll-off 0.99, as torchaudio); zeros up to {LEAST_SAMPLES} samples; whole "
            f"sound, frames of {window}, hop {hop}, log-mel matrices of the checkpoint; features "
            "after the first linear layer and ReLU; as audioldm_eval"
        )
        path, tensors = read_tensors(weights)
        sizes = {key: len(value) for key, value in tensors.items()}
        channels = [sizes.get(f"conv_block{n}.conv1.weight", 1) for n in range(1, 7)]
        with torch.device("meta"):
            network = Cnn14(
                window=window,
                hop=hop,
                channels=channels,
                features=sizes.get("fc1.bias", 1),
                classes=sizes.get("fc_audioset.bias", 1),
                mel_bands=sizes.get("bn0.bias", 1),
            )
        expected = {
            key: tuple(value.shape)
            for key, value in network.state_dict().items()
            if not key.endswith(".num_batches_tracked")
        }
        check_tensors(path, tensors, expected)
        network.to_empty(device="cpu").load_state_dict(tensors, strict=False)
        self.network = network.to(device).eval()

    def extract(self, prepared: Sequence[Array]) -> Extracted:
        """Turn sounds into features, [B, 2048], and logits, [B, 527]."""
        features, logits = [], []
        for group in _alike(prepared, longest=self.sample_rate_hz * _BATCH_S):
            batch = torch.from_numpy(np.stack(group)).to(self.device)
            with torch.inference_mode():
                found, scores = self.network(batch)
            features.append(found.double().cpu().numpy())
            logits.append(scores.double().cpu().numpy())
        return Extracted(np.concatenate(features), np.concatenate(logits))

    def prepare(self, medium: Sound) -> Array:
        """Return what the network hears of a sound: float32, [n], n ≥ 32,000."""
        first = medium.samples[0] - medium.samples[0].mean()
        heard = resample(first, medium.sample_rate_hz, self.sample_rate_hz)
        padded: Array = np.pad(heard, (0, max(0, LEAST_SAMPLES - len(heard))))
        return padded


def _alike(sounds: Sequence[Array], *, longest: int) -> Iterator[list[Array]]:
    """Part sounds, in their order, into groups of one length and of no more samples in all."""
    group: list[Array] = []
    for sound in sounds:
        if group and (len(sound) != len(group[0]) or len(sound) * (len(group) + 1) > longest):
            yield group
            group = []
        group.append(sound)
    if group:
        yield group
