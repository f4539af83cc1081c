"""VGGish (arXiv 1609.09430): patches of a log-mel spectrogram → 128 features.

Names of layers are those of ``vggish-10086976.pth``, converted from TensorFlow's checkpoint by
https://github.com/harritaylor/torchvggish. The ReLU after its last layer is left out, and so are
whitening and rounding to 8 bits: Fréchet distances are taken of the plain features, by
frechet_audio_distance (https://github.com/gudgud96/frechet-audio-distance) as by audioldm_eval.

Notation: B patches, T frames, M mel bands, C channels, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

CHANNELS = (64, 128, 256, 256, 512, 512)
HIDDEN = (4096, 4096)
FEATURES = 128
PATCH_FRAMES = 96
MEL_BANDS = 64

CONVOLUTIONS = (0, 3, 6, 8, 11, 13)
"""Where convolutions stand in ``features``; a ReLU follows each."""

LINEARS = (0, 2, 4)
"""Where linear layers stand in ``embeddings``."""

_POOLED_AFTER = (0, 1, 3, 5)
_SHRINKAGE = 2 ** len(_POOLED_AFTER)


class Vggish(nn.Module):
    """The network.

    Args:
        channels: Of the six convolutions.
        hidden: Widths of the two hidden layers.
        features: D.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = CHANNELS,
        hidden: Sequence[int] = HIDDEN,
        features: int = FEATURES,
    ) -> None:
        super().__init__()
        if (len(channels), len(hidden)) != (len(CHANNELS), len(HIDDEN)):
            raise ValueError(f"6 channels and 2 hidden widths are needed, got {channels}, {hidden}")
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip((1, *channels[:-1]), channels, strict=True)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            if number in _POOLED_AFTER:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        places = (PATCH_FRAMES // _SHRINKAGE) * (MEL_BANDS // _SHRINKAGE)
        self.embeddings = nn.Sequential(
            nn.Linear(places * channels[-1], hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], features),
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches: [B, 96, 64] → [B, D]."""
        hidden_states = self.features(patches[:, None])  # [B, C, T / 16, M / 16]
        # TensorFlow has the channels last.
        hidden_states = hidden_states.permute(0, 2, 3, 1).flatten(1)  # [B, T / 16 · M / 16 · C]
        features: Tensor = self.embeddings(hidden_states)
        return features
