"""Small random vision networks of the families that bundles see with, saved as real ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    SamConfig,
    SamModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llmbind_cli.model.config import SightConfig, VisionNetwork
from llmbind_cli.nn.efficientnet_lite import EfficientNetLite0

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
SAM_SIDE = 64


def clip_config(image_size: int = 28) -> CLIPVisionConfig:
    return CLIPVisionConfig(**SIZES, image_size=image_size, patch_size=14, projection_dim=8)


def save_clip(folder: Path, *, image_size: int = 28, seed: int = 0) -> Path:
    """Save a CLIP vision transformer with 14-pixel patches."""
    torch.manual_seed(seed)
    CLIPVisionModel(clip_config(image_size)).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, *, seed: int = 0) -> Path:
    """Save a SigLIP vision transformer of 32 px with 16-pixel patches."""
    torch.manual_seed(seed)
    SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=32, patch_size=16)).save_pretrained(
        folder
    )
    return folder


def sam_config() -> SamConfig:
    return SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SAM_SIDE,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [1],
            "num_pos_feats": 4,
            "mlp_dim": 32,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": 8, "image_size": SAM_SIDE, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 8,
            "mlp_dim": 16,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        },
    )


def build_sam(*, seed: int = 0) -> SamModel:
    """Return a Segment Anything of 64 px whose weights are all random."""
    torch.manual_seed(seed)
    model = SamModel(sam_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def save_sam(folder: Path, *, seed: int = 0) -> Path:
    """Save it."""
    build_sam(seed=seed).save_pretrained(folder)
    return folder


def save_efficientnet(folder: Path, *, seed: int = 0) -> Path:
    """Save an EfficientNet-lite0 with random weights and folded normalisations.

    The weights are wide enough for a picture to still tell in the last map.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    network = EfficientNetLite0()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def picture(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Return a picture of smooth random colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def sam_sight(clip: Path, sam: Path) -> SightConfig:
    """Return the configuration of a CLIP tower and a SAM encoder."""
    return SightConfig(
        vision_tower=VisionNetwork(
            family="clip", source=str(clip), sha256=None, side_px=28, fit="pad"
        ),
        grounding_encoder=VisionNetwork(
            family="sam", source=str(sam), sha256=None, side_px=SAM_SIDE, fit="corner"
        ),
    )


def light_sight(efficientnet: Path, *, side_px: int = 64) -> SightConfig:
    """Return the configuration of one EfficientNet-lite0 for both purposes."""
    network = {
        "family": "efficientnet-lite0",
        "source": str(efficientnet),
        "sha256": None,
        "side_px": side_px,
        "fit": "corner",
    }
    return SightConfig(
        vision_tower=VisionNetwork(**network, strides=(16, 32)),
        grounding_encoder=VisionNetwork(**network, strides=(4, 8, 16, 32)),
        mask_decoder={"prompt_width": 32, "num_heads": 2},
    )
