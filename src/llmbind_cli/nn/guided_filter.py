"""Coarse masks brought to the edges of the picture that they are of: the guided filter.

Where a mask ends, its picture mostly changes colour. In every small window the mask is told as a
linear function of the picture's colours (ridge regression), each cell takes the mean of the
functions of all windows that it lies in, and applied to the picture itself they give a mask as fine
as the picture: Guided Image Filtering (He, Sun, Tang; IEEE TPAMI 35(6), 2013, in its form for
colours), with functions fitted on a coarse grid as in Fast Guided Filter (He, Sun; arXiv
1505.00996). Nothing is trained.

Notation: ``M`` masks over a grid of ``h × w`` cells, a picture of ``H × W`` pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def guided_masks(coarse: Tensor, picture: Tensor, *, radius: int, eps: float) -> Tensor:
    """Bring masks over a grid of cells to the edges of their picture.

    Args:
        coarse: How far each cell belongs to each mask, 0 to 1, float [M, h, w].
        picture: Its colours, uint8 [3, H, W]; the grid lies over the whole of it.
        radius: Of a window, in cells, ≥ 1: it has 2 · radius + 1 of them on each side.
        eps: Ridge of the regression, > 0, for colours from 0 to 1. A window whose colours vary by
            less (variance) is smoothed.

    Returns:
        bool [M, H, W], where the filtered mask is above one half.
    """
    (rows, columns), (height, width) = coarse.shape[1:], picture.shape[1:]
    colours = functional.adaptive_avg_pool2d(picture.float(), (rows, columns)) / 255  # [3, h, w]
    mean, masks = _mean(colours, radius), _mean(coarse, radius)
    products = _mean(_outer(colours, colours), radius) - _outer(mean, mean)  # [3, 3, h, w]
    shared = _mean(_outer(coarse, colours), radius) - _outer(masks, mean)  # [M, 3, h, w]
    ridge = eps * torch.eye(3, device=coarse.device)
    slopes = torch.linalg.solve(products.permute(2, 3, 0, 1) + ridge, shared.permute(2, 3, 1, 0))
    slopes = slopes.permute(3, 2, 0, 1)  # [M, 3, h, w]
    levels = masks - (slopes * mean).sum(1)
    told = torch.cat([_mean(slopes, radius), _mean(levels, radius)[:, None]], dim=1)
    found = torch.zeros(len(coarse), height, width, dtype=torch.bool, device=coarse.device)
    for mask, terms in zip(found, told, strict=True):  # one at a time: a large picture's take 50 MB
        fine = _raised(terms[3], height, width)
        for slope, colour in zip(terms[:3], picture, strict=True):
            fine.addcmul_(_raised(slope, height, width), colour, value=1 / 255)
        torch.gt(fine, 0.5, out=mask)
    return found


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """[M, h, w], [N, h, w] → [M, N, h, w]."""
    return left[:, None] * right


def _mean(values: Tensor, radius: int) -> Tensor:
    """Average [..., h, w] over the windows around its cells, as far as they lie in the grid."""
    side = 2 * radius + 1
    flat = values.flatten(0, -3)[:, None]
    for window, around in (((side, 1), (radius, 0)), ((1, side), (0, radius))):
        flat = functional.avg_pool2d(flat, window, 1, around, count_include_pad=False)
    return flat.view_as(values)


def _raised(values: Tensor, height: int, width: int) -> Tensor:
    """[h, w] → [height, width], bilinear."""
    return functional.interpolate(
        values[None, None], (height, width), mode="bilinear", align_corners=False
    )[0, 0]
