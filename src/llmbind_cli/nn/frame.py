"""The frame of a picture and the square that a grounding encoder sees, and the way between them.

As in Segment Anything (arXiv 2304.02643, appendix A; facebookresearch/segment-anything
``utils/transforms.py``): the longest side is scaled to the side of the square, and what is missing
is padded at the right and at the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture's frame.

    Attributes:
        width: Of the picture as the viewer sees it, px.
        height: Likewise.
        side_px: Side of the square.
    """

    width: int
    height: int
    side_px: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.side_px) < 1:
            raise ValueError(
                f"width, height and side_px must be ≥ 1, got {self.width}, {self.height} and "
                f"{self.side_px}"
            )

    @property
    def content(self) -> tuple[int, int]:
        """Width and height of the picture within the square, px, each ≥ 1."""
        scale = self.side_px / max(self.width, self.height)
        return max(1, int(self.width * scale + 0.5)), max(1, int(self.height * scale + 0.5))

    def cut(self, mask_logits: Tensor) -> Tensor:
        """Cut mask logits to the picture, in cells about as large as they have.

        Args:
            mask_logits: Float, [M, h, w], over the whole square at any resolution.

        Returns:
            [M, rows, columns], over the whole picture, bilinear; the numbers of rows and columns
            are ≥ 1.
        """
        width, height = self.content
        down, across = mask_logits.shape[1] / self.side_px, mask_logits.shape[2] / self.side_px
        rows, columns = max(1, int(down * height + 0.5)), max(1, int(across * width + 0.5))
        device = mask_logits.device
        places = torch.empty(rows, columns, 2, device=device)  # -1 to 1 over the square
        places[..., 0] = (torch.arange(columns, device=device) + 0.5) / columns * width
        places[..., 1] = ((torch.arange(rows, device=device) + 0.5) / rows * height)[:, None]
        return functional.grid_sample(
            mask_logits[None].float(),
            (places * (2 / self.side_px) - 1)[None],
            padding_mode="border",
            align_corners=False,
        )[0]

    def restore(self, mask_logits: Tensor) -> Tensor:
        """Bring mask logits over the square into the frame of the picture.

        Args:
            mask_logits: Float, [M, h, w], over the whole square at any resolution.

        Returns:
            [M, height, width]. Bilinear, twice: up to the square, and after the padding is cut
            off, to the picture.
        """
        width, height = self.content
        side = (self.side_px, self.side_px)
        whole = functional.interpolate(
            mask_logits[:, None].float(), side, mode="bilinear", align_corners=False
        )
        return functional.interpolate(
            whole[:, :, :height, :width],
            (self.height, self.width),
            mode="bilinear",
            align_corners=False,
        )[:, 0]

    def masks(self, mask_logits: Tensor) -> Tensor:
        """Turn mask logits over the square into masks of the picture: where the logit is > 0.

        One mask is restored at a time, since a large picture's logits take 256 MB each.

        Args:
            mask_logits: Float, [M, h, w].

        Returns:
            Bool, [M, height, width].
        """
        masks = [self.restore(logits[None])[0] > 0 for logits in mask_logits]
        if not masks:
            return torch.zeros(0, self.height, self.width, dtype=torch.bool)
        return torch.stack(masks)

    def pixels(self, boxes: Tensor) -> Tensor:
        """Scale boxes of [0, 1] to pixels of the picture, cut off at its edges; [M, 4]."""
        size = boxes.new_tensor([self.width, self.height, self.width, self.height])
        return boxes.clamp(0, 1) * size
