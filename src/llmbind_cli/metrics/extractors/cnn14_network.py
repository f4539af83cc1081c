"""Cnn14 of PANNs (arXiv 1912.10211): sounds → log-mel spectrogram → features and 527 logits.

Names of layers are those of the official checkpoints, which hold the Fourier and mel matrices too;
both are taken from there.

Notation: B sounds, n samples, T frames, F frequencies, M mel bands, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (64, 128, 256, 512, 1024, 2048)
MEL_BANDS = 64
FEATURES = 2048
CLASSES = 527
_LEAST_POWER = 1e-10
_HALVINGS = 5


class Spectrogram(nn.Module):
    """Power of a short-time Fourier transform, as a convolution with the window in its weights.

    Args:
        window: Samples of a frame, which is the length of the transform.
        hop: Samples from one frame to the next.
    """

    def __init__(self, *, window: int, hop: int) -> None:
        super().__init__()
        self.window, self.hop = window, hop
        frequencies = window // 2 + 1
        self.stft = nn.Module()
        for part in ("conv_real", "conv_imag"):
            layer = nn.Conv1d(1, frequencies, window, stride=hop, bias=False)
            self.stft.add_module(part, layer)

    def forward(self, samples: Tensor) -> Tensor:
        """[B, n] → [B, T, F]; T = n // hop + 1, the ends mirrored."""
        half = self.window // 2
        padded = functional.pad(samples[:, None], (half, half), mode="reflect")
        real, imaginary = (
            self.stft.get_submodule(part)(padded) for part in ("conv_real", "conv_imag")
        )
        power: Tensor = real.square() + imaginary.square()
        return power.transpose(1, 2)


class Block(nn.Module):
    """Two convolutions of 3 × 3 with normalisation and ReLU, then a mean over 2 × 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, hidden_states: Tensor, *, halved: bool) -> Tensor:
        """[B, C, T, M] → [B, C', T, M], or half of T and M."""
        hidden_states = functional.relu_(self.bn1(self.conv1(hidden_states)))
        hidden_states = functional.relu_(self.bn2(self.conv2(hidden_states)))
        return functional.avg_pool2d(hidden_states, 2) if halved else hidden_states


class Cnn14(nn.Module):
    """The network.

    Args:
        window: Samples of a frame: 512 at 16 kHz, 1024 at 32 kHz.
        hop: Samples from one frame to the next: 160 or 320.
        channels: Of the six blocks.
        features: D.
        classes: Of the classifier.
        mel_bands: M; halved five times, so at least 32.
    """

    def __init__(
        self,
        *,
        window: int,
        hop: int,
        channels: Sequence[int] = CHANNELS,
        features: int = FEATURES,
        classes: int = CLASSES,
        mel_bands: int = MEL_BANDS,
    ) -> None:
        super().__init__()
        if len(channels) != len(CHANNELS):
            raise ValueError(f"channels must be those of 6 blocks, got {len(channels)}")
        self.hop = hop
        self.spectrogram_extractor = Spectrogram(window=window, hop=hop)
        self.logmel_extractor = nn.Module()
        self.logmel_extractor.register_parameter(
            "melW", nn.Parameter(torch.empty(window // 2 + 1, mel_bands))
        )
        self.bn0 = nn.BatchNorm2d(mel_bands)
        for number, (inputs, outputs) in enumerate(
            zip((1, *channels[:-1]), channels, strict=True), start=1
        ):
            self.add_module(f"conv_block{number}", Block(inputs, outputs))
        self.fc1 = nn.Linear(channels[-1], features)
        self.fc_audioset = nn.Linear(features, classes)

    def log_mel(self, samples: Tensor) -> Tensor:
        """[B, n], −1 to 1 → 10 log₁₀ of the mel power, at least −100 dB, [B, T, M]."""
        power = self.spectrogram_extractor(samples)
        mel = power @ self.logmel_extractor.get_parameter("melW")
        decibels: Tensor = 10 * mel.clamp(min=_LEAST_POWER).log10()
        return decibels

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Describe sounds.

        Args:
            samples: [B, n], −1 to 1, at the network's rate; n must give at least 32 frames.

        Returns:
            Features after the first linear layer and its ReLU, [B, D], and logits, [B, classes].
        """
        bands = self.log_mel(samples)
        hidden_states = self.bn0(bands.transpose(1, 2)[..., None])  # [B, M, T, 1]
        hidden_states = hidden_states.permute(0, 3, 2, 1)  # [B, 1, T, M]
        for number in range(1, len(CHANNELS) + 1):
            block = self.get_submodule(f"conv_block{number}")
            hidden_states = block(hidden_states, halved=number <= _HALVINGS)
        frames = hidden_states.mean(dim=3)  # [B, C, T / 32]
        pooled = frames.amax(dim=2) + frames.mean(dim=2)
        features = functional.relu_(self.fc1(pooled))
        return features, self.fc_audioset(features)
