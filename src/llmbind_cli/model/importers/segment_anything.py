"""Segment Anything's own checkpoints (facebookresearch/segment-anything) → transformers' layout.

Every number of the architecture is read off the shapes of the tensors, so that ViT-B, L and H, and
anything of the same build, need no table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llmbind_cli.errors import IntegrityError

_RENAMED = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.", "vision_encoder."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (
        r"^mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.",
        r"mask_decoder.transformer.layers.\1.layer_norm\2.",
    ),
    (
        r"^mask_decoder\.transformer\.norm_final_attn\.",
        "mask_decoder.transformer.layer_norm_final_attn.",
    ),
)
_PERCEPTRON = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(.*)$"
)
_CONSTANTS = frozenset({"pixel_mean", "pixel_std"})
"""Of ImageNet; some files hold them, and preprocessing knows them."""

_DECODER_HEADS = 8
"""Of the mask decoder's attention; the only number that no shape tells."""


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a ``Sam`` to those of a ``SamModel``.

    Args:
        tensors: Name in the original → tensor.

    Returns:
        Name in transformers → the same tensor.
    """
    last: dict[str, int] = {}
    for name in tensors:
        match = _PERCEPTRON.match(name)
        if match is not None:
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return {
        _renamed(name, last): tensor for name, tensor in tensors.items() if name not in _CONSTANTS
    }


def _renamed(name: str, last: Mapping[str, int]) -> str:
    match = _PERCEPTRON.match(name)
    if match is not None:
        head, number, rest = match[1], int(match[2]), match[3]
        if number == 0:
            return f"{head}.proj_in.{rest}"
        if number == last[head]:
            return f"{head}.proj_out.{rest}"
        return f"{head}.layers.{number - 1}.{rest}"
    for pattern, replacement in _RENAMED:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def sam_config_of(tensors: Mapping[str, Tensor]) -> Any:
    """Read a ``SamConfig`` off the tensors of a ``Sam``.

    Args:
        tensors: Name in the original → tensor.

    Raises:
        IntegrityError: A tensor that tells something is missing.
    """
    from transformers import SamConfig

    try:
        patches = tensors["image_encoder.patch_embed.proj.weight"]
        hidden, channels, patch, _ = patches.shape
        grid = tensors["image_encoder.pos_embed"].shape[1]
        blocks = {
            int(match[1]): tensor
            for name, tensor in tensors.items()
            if (match := re.match(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h$", name))
        }
        head_width = blocks[0].shape[1]
        everywhere = [n for n, t in sorted(blocks.items()) if t.shape[0] == 2 * grid - 1]
        local = [t.shape[0] for n, t in blocks.items() if n not in everywhere]
        places = tensors["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        mask_channels = tensors["prompt_encoder.mask_downscaling.3.weight"].shape[0]
        prompt = tensors["prompt_encoder.no_mask_embed.weight"].shape[1]
        decoder_mlp = tensors["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
        layer = "mask_decoder.transformer.layers.0"
        queries = tensors[f"{layer}.cross_attn_token_to_image.q_proj.weight"]
        iou = tensors["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0]
        num_masks = tensors["mask_decoder.mask_tokens.weight"].shape[0]
        output_channels = tensors["image_encoder.neck.0.weight"].shape[0]
        mlp = tensors["image_encoder.blocks.0.mlp.lin1.weight"].shape[0]
    except KeyError as error:
        raise IntegrityError(f"not a Segment Anything checkpoint: lacks {error}") from error
    depth = 1 + max(_number(name, "mask_decoder.iou_prediction_head.layers.") for name in tensors)
    layers = 1 + max(_number(name, "mask_decoder.transformer.layers.") for name in tensors)
    size = {"image_size": grid * patch, "patch_size": patch}
    return SamConfig(
        vision_config={
            **size,
            "hidden_size": hidden,
            "num_channels": channels,
            "output_channels": output_channels,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": hidden // head_width,
            "mlp_dim": mlp,
            "window_size": (local[0] + 1) // 2 if local else 0,
            "global_attn_indexes": everywhere,
            "num_pos_feats": places.shape[1],
        },
        prompt_encoder_config={
            **size,
            "hidden_size": prompt,
            "mask_input_channels": mask_channels,
        },
        mask_decoder_config={
            "hidden_size": prompt,
            "mlp_dim": decoder_mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": _DECODER_HEADS,
            "attention_downsample_rate": prompt // queries.shape[0],
            "num_multimask_outputs": num_masks - 1,
            "iou_head_depth": depth,
            "iou_head_hidden_dim": iou,
        },
    )


def _number(name: str, prefix: str) -> int:
    if not name.startswith(prefix):
        return 0
    return int(name[len(prefix) :].partition(".")[0])
