"""DINOv2 (arXiv 2304.07193) as dgm-eval has it: the normalised class token of a picture.

Stein et al. (arXiv 2306.04675) found its Fréchet distance closer to people's judgement than FID.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmbind_cli.metrics.extractors.extractor import Array, Extracted
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.metrics.extractors.transformer_folder import load_network

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE_PX = 224
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2Extractor:
    """The extractor behind FD-DINOv2.

    Args:
        weights: A folder in the layout of transformers' ``Dinov2Model``.
        device: Where it runs.

    Raises:
        IntegrityError: It does not fit.
    """

    preprocessing = (
        "sRGB, first frame, EXIF applied, transparency on white; resized to "
        f"{SIDE_PX} × {SIDE_PX} px (Pillow, bicubic, antialiased, aspect not kept, as dgm-eval); "
        f"mean {_MEAN}, deviation {_DEVIATION}; class token after the last normalisation"
    )

    def __init__(self, weights: LocatedWeights, *, device: torch.device) -> None:
        from transformers import Dinov2Model

        self.weights, self.device = weights, device
        self.network = load_network(Dinov2Model, weights, device=device)

    def prepare(self, medium: Image) -> Array:
        """Resize a picture of mode ``RGB``: uint8, [224, 224, 3]."""
        from PIL.Image import Resampling

        return np.asarray(medium.resize((SIDE_PX, SIDE_PX), Resampling.BICUBIC))

    def extract(self, prepared: Sequence[Array]) -> Extracted:
        """Turn pictures into features, [B, D]; D is 1024 for ViT-L."""
        batch = (
            torch.from_numpy(np.stack(prepared)).to(self.device).permute(0, 3, 1, 2).float() / 255
        )
        mean, deviation = (batch.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _DEVIATION))
        with torch.inference_mode():
            states = self.network(pixel_values=(batch - mean) / deviation).last_hidden_state
        return Extracted(states[:, 0].double().cpu().numpy())
