"""Segment Anything's prompt encoder and mask decoder, prompted by an embedding.

The projected state of a ``seg`` token takes the place of a point or a box: it is one sparse prompt,
the dense prompt is the embedding for "no mask", and one mask comes out (LISA, arXiv 2308.00692,
section 3.2; dvlab-research/LISA 3cb2d43, ``model/LISA.py``). The networks are transformers' own.

Notation: ``G`` images, ``M`` masks, ``P`` width of the prompt, ``h × w`` the encoder's grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmbind_cli.errors import IntegrityError

_SHARED_PLACES = "prompt_encoder.shared_embedding.positional_embedding"


class SamMaskDecoder(nn.Module):
    """The decoding half of a ``SamModel``.

    Args:
        config: A ``SamConfig`` of transformers.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers.models.sam import modeling_sam

        decoder_config = config.mask_decoder_config
        decoder_config._attn_implementation = "sdpa"
        self.prompt_width = int(config.prompt_encoder_config.hidden_size)
        self.prompt_encoder = modeling_sam.SamPromptEncoder(config)
        # LISA trains the mask decoder and leaves the prompt encoder as it is.
        self.prompt_encoder.requires_grad_(False)
        self.mask_decoder = modeling_sam.SamMaskDecoder(decoder_config)
        # Points and boxes are never asked about; what is saved is what a mask hangs on.
        for name in ("point_embed", "not_a_point_embed", "mask_embed"):
            delattr(self.prompt_encoder, name)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image embedding."""
        rows, columns = self.prompt_encoder.image_embedding_size
        return int(rows), int(columns)

    def forward(self, maps: Sequence[Tensor], prompts: Tensor, image_of: Tensor) -> Tensor:
        """Decode masks.

        Args:
            maps: The encoder's only map, [G, C, h, w].
            prompts: [M, P].
            image_of: Which image each prompt is about, int64 in [0, G), [M].

        Returns:
            Logits, [M, 4 h, 4 w].
        """
        (embedding,) = maps
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        masks, _ = self.mask_decoder(
            image_embeddings=embedding[image_of],
            image_positional_embeddings=self._places().expand(len(prompts), -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None, None],
            dense_prompt_embeddings=dense.expand(len(prompts), -1, *self.grid),
            multimask_output=False,
        )  # [M, 1, 1, 4 h, 4 w]
        logits: Tensor = masks[:, 0, 0]
        return logits

    def _places(self) -> Tensor:
        """Encode the centre of each cell of the grid; [1, P, h, w]."""
        rows, columns = self.grid
        embedding = self.prompt_encoder.shared_embedding
        like = embedding.positional_embedding
        down = (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) / rows
        across = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) / columns
        grid = torch.stack(
            [across.expand(rows, -1), down[:, None].expand(-1, columns)], dim=-1
        )  # [h, w, 2]: x, then y
        encoded: Tensor = embedding(grid)
        return encoded.permute(2, 0, 1)[None]


@torch.no_grad()
def take_sam_decoder(decoder: SamMaskDecoder, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy the decoding half of a ``SamModel``'s state into a mask decoder.

    Args:
        decoder: Changed in place.
        tensors: Name in a file of transformers → tensor.
        source: Where they come from, for the message.

    Raises:
        IntegrityError: One is missing or has another shape.
    """
    known = dict(tensors)
    # The two positional embeddings are one; files hold either.
    if "shared_image_embedding.positional_embedding" in known:
        known.setdefault(_SHARED_PLACES, known["shared_image_embedding.positional_embedding"])
    for name, parameter in decoder.named_parameters():
        if name not in known or known[name].shape != parameter.shape:
            raise IntegrityError(f"{source}: lacks {name} of Segment Anything's mask decoder")
        parameter.copy_(known[name])
