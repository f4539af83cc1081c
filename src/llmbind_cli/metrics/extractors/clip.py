"""CLIP (arXiv 2103.00020): features of pictures, and vectors in which pictures and texts compare.

Preprocessing is written out here instead of taken from a processor class, as transformers' classes
give other pixels where torchvision is installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmbind_cli.metrics.extractors.extractor import Array, Extracted
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.metrics.extractors.text_embedder import TextEmbedder, unit_vectors
from llmbind_cli.metrics.extractors.transformer_folder import load_network

if TYPE_CHECKING:
    from PIL.Image import Image

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's models; a folder's ``preprocessor_config.json`` may name others."""

_WIDEST = 50
"""Sides that differ more than this many times are cut before they are scaled, for memory's sake."""


class ClipExtractor(TextEmbedder):
    """CLIP as an extractor, and as a judge of pictures beside texts.

    Args:
        weights: A folder in the layout of transformers' ``CLIPModel``, with its tokenizer.
        device: Where it runs.

    Attributes:
        side_px: Side of the pictures that the network sees.
        limit: Tokens that a text may have.

    Raises:
        IntegrityError: It does not fit.
    """

    title = "CLIP"

    def __init__(self, weights: LocatedWeights, *, device: torch.device) -> None:
        from transformers import CLIPModel

        network = load_network(CLIPModel, weights, device=device)
        limit = int(network.config.text_config.max_position_embeddings)
        super().__init__(network, weights, device=device, limit=limit)
        self.side_px = int(network.config.vision_config.image_size)
        self.mean, self.deviation = _normalisation(weights.folder / "preprocessor_config.json")

    @property
    def preprocessing(self) -> str:
        """The way from a file to features."""
        side = self.side_px
        return (
            f"sRGB, first frame, EXIF applied, transparency on white; shorter side to {side} px "
            f"(Pillow, bicubic, antialiased), middle {side} × {side} px; mean {self.mean}, "
            f"deviation {self.deviation}; class token after the last normalisation, not projected"
        )

    def prepare(self, medium: Image) -> Array:
        """Scale and cut a picture of mode ``RGB``: uint8, [side, side, 3]."""
        return np.asarray(_cut(medium, self.side_px))

    def extract(self, prepared: Sequence[Array]) -> Extracted:
        """Turn pictures into features, [B, D]; D is 1024 for ViT-L."""
        return Extracted(self._pooled(prepared).double().cpu().numpy())

    def embed_pictures(self, prepared: Sequence[Array]) -> Array:
        """Turn pictures, prepared, into unit vectors, float64, [B, P]."""
        with torch.inference_mode():
            return unit_vectors(self.network.visual_projection(self._pooled(prepared)))

    def _pooled(self, prepared: Sequence[Array]) -> Tensor:
        batch = (
            torch.from_numpy(np.stack(prepared)).to(self.device).permute(0, 3, 1, 2).float() / 255
        )
        mean, deviation = (
            batch.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.deviation)
        )
        with torch.inference_mode():
            pooled: Tensor = self.network.vision_model(
                pixel_values=(batch - mean) / deviation
            ).pooler_output
        return pooled


def _cut(picture: Image, side: int) -> Image:
    from PIL.Image import Resampling

    if max(picture.size) > _WIDEST * min(picture.size):
        left, top = ((length - min(picture.size)) // 2 for length in picture.size)
        picture = picture.crop((left, top, left + min(picture.size), top + min(picture.size)))
    shorter = min(picture.size)
    width, height = (side * length // shorter for length in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    scaled = picture.resize((width, height), Resampling.BICUBIC)
    return scaled.crop((left, top, left + side, top + side))


def _normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        content = json.loads(path.read_bytes())
        return tuple(content["image_mean"]), tuple(content["image_std"])
    except (OSError, ValueError, KeyError, TypeError):
        return _MEAN, _DEVIATION
