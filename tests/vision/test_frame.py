"""The way from the square back to the picture, beside Segment Anything's own post-processing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_vision import picture
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from llmbind_cli.nn.frame import Frame

SIZES = [(40, 30), (30, 41), (64, 64), (500, 97), (7, 300), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_masks_return_as_segment_anything_brings_them_back(size):
    width, height = size
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = processor(picture(*size), return_tensors="pt")
    frame = Frame(width=width, height=height, side_px=64)
    (expected,) = processor.post_process_masks(
        [logits[:, None].numpy()],
        made["original_sizes"],
        made["reshaped_input_sizes"],
        binarize=True,
        pad_size={"height": 64, "width": 64},
    )
    masks = frame.masks(logits)
    assert masks.shape == (3, height, width)
    assert np.array_equal(masks.numpy(), np.asarray(expected)[:, 0])


def test_a_half_picture_comes_back_as_the_half():
    frame = Frame(width=200, height=100, side_px=64)
    logits = torch.full((1, 16, 16), -5.0)
    logits[:, :, :8] = 5.0  # the left half of the square, and so of the picture
    masks = frame.masks(logits)
    assert masks[0, :, :96].all()
    assert not masks[0, :, 104:].any()


def test_the_cells_that_show_the_picture_are_cut_out():
    frame = Frame(width=200, height=100, side_px=64)
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frame.cut(logits), logits[:, :8])
    assert Frame(width=7, height=300, side_px=64).cut(logits).shape == (2, 16, 1)
    slope = torch.arange(16.0).expand(1, 16, 16) + 0.5  # 16 over the square
    (cut,) = Frame(width=60, height=100, side_px=64).cut(slope)  # 38 px wide: 9.5 cells
    assert cut.shape == (16, 10)
    expected = ((torch.arange(10) + 0.5) * 0.95).clamp(min=0.5)  # no cell lies further out
    torch.testing.assert_close(cut, expected.expand(16, 10))
    assert frame.cut(logits[:0]).shape == (0, 8, 16)


def test_no_masks_are_an_empty_stack():
    assert Frame(width=5, height=4, side_px=8).masks(torch.zeros(0, 2, 2)).shape == (0, 4, 5)


def test_boxes_scale_to_pixels_and_stay_in_the_picture():
    frame = Frame(width=200, height=100, side_px=64)
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0], [-0.5, 0.1, 1.5, 0.2]])
    torch.testing.assert_close(
        frame.pixels(boxes), torch.tensor([[50.0, 50, 150, 100], [0, 10, 200, 20]])
    )


def test_a_frame_without_extent_is_refused():
    with pytest.raises(ValueError, match="must be ≥ 1, got 0, 4 and 8"):
        Frame(width=0, height=4, side_px=8)
