"""Inception-v3 as FID has it: 2048 features and 1008 logits of a picture.

Preprocessing is that of pytorch-fid (``inception.py`` at 0.3.0): each picture is resized on its
own, by bilinear interpolation without antialiasing, so pictures of mixed sizes go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmbind_cli.metrics.extractors.extractor import Extracted
from llmbind_cli.metrics.extractors.inception_network import (
    WIDTHS,
    InceptionV3,
    checkpoint_shapes,
    folded,
)
from llmbind_cli.metrics.extractors.published import LocatedWeights, read_tensors
from llmbind_cli.weights.tensors import check_tensors

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE_PX = 299


class InceptionExtractor:
    """The extractor behind FID, KID and IS.

    Args:
        weights: Of the checkpoint's layout; a network of other widths is taken too, and is told
            from the published one by its hash.
        device: Where it runs.

    Raises:
        IntegrityError: Weights are missing, unexpected, of another shape, or not finite.
    """

    preprocessing = (
        "sRGB, first frame, EXIF applied, transparency on white; resized to "
        f"{SIDE_PX} × {SIDE_PX} px (bilinear, no antialiasing, aspect not kept, as pytorch-fid); "
        "−1 to 1; features: pool3; logits: without the bias"
    )

    def __init__(self, weights: LocatedWeights, *, device: torch.device) -> None:
        self.weights, self.device = weights, device
        path, tensors = read_tensors(weights)
        names = {name: f"{name}.conv.weight" for name in WIDTHS}
        widths = {n: len(tensors[k]) if k in tensors else WIDTHS[n] for n, k in names.items()}
        classes = len(tensors["fc.bias"]) if "fc.bias" in tensors else 0
        check_tensors(path, tensors, checkpoint_shapes(widths=widths, classes=classes))
        network = InceptionV3(widths=widths, classes=classes)
        network.load_state_dict(folded(tensors))
        self.network = network.to(device).eval()

    def prepare(self, medium: Image) -> Tensor:
        """Resize a picture of mode ``RGB``: float32, [3, 299, 299], 0 to 1."""
        pixels = torch.from_numpy(np.asarray(medium).copy()).permute(2, 0, 1)[None].float() / 255
        size = (SIDE_PX, SIDE_PX)
        return functional.interpolate(pixels, size, mode="bilinear", align_corners=False)[0]

    def extract(self, prepared: Sequence[Tensor]) -> Extracted:
        """Turn pictures into features, [B, 2048], and logits, [B, 1008]."""
        batch = torch.stack(list(prepared)).to(self.device)
        with torch.inference_mode():
            features, logits = self.network(2 * batch - 1)
        return Extracted(features.double().cpu().numpy(), logits.double().cpu().numpy())
