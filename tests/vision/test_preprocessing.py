"""Preprocessing beside the Pillow processors of transformers, and of odd pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vision import picture
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llmbind_cli.model.config import VisionNetwork
from llmbind_cli.model.vision.networks import preprocessing_of
from llmbind_cli.model.vision.preprocessing import Preprocessing

SIZES = [(40, 30), (30, 41), (224, 224), (500, 97), (63, 640)]


def made_ready(family: str, fit: str, side_px: int) -> Preprocessing:
    return preprocessing_of(
        VisionNetwork(family=family, source="", sha256=None, side_px=side_px, fit=fit)
    )


def reference(processor, image) -> torch.Tensor:
    return torch.as_tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [56, 224])
def test_crop_is_clip_s(size, side):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    image = picture(*size)
    expected, given = reference(processor, image), made_ready("clip", "crop", side)(image)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_pad_is_llava_s(size):
    processor = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    image = picture(*size)
    expected, given = reference(processor, image), made_ready("clip", "pad", 56)(image)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)  # float32 of the same levels


@pytest.mark.parametrize("size", SIZES)
def test_stretch_is_siglip_s(size):
    processor = SiglipImageProcessorPil(size={"height": 48, "width": 48})
    image = picture(*size)
    expected, given = reference(processor, image), made_ready("siglip", "stretch", 48)(image)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_corner_is_segment_anything_s(size):
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    image = picture(*size)
    made = processor(image, return_tensors="np")
    preprocessing = made_ready("sam", "corner", 64)
    torch.testing.assert_close(
        preprocessing(image), torch.as_tensor(made["pixel_values"][0]), atol=1e-5, rtol=0
    )
    width, height = preprocessing.frame(image).content
    assert (height, width) == tuple(int(n) for n in made["reshaped_input_sizes"][0])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "corner"])
@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
def test_odd_sizes_give_finite_squares(fit, size):
    family = "sam" if fit == "corner" else "clip"
    square = made_ready(family, fit, 32)(Image.new("RGB", size, "teal"))
    assert square.shape == (3, 32, 32)
    assert square.isfinite().all()


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match="fit must be one of crop, pad, stretch, corner"):
        Preprocessing(side_px=8, fit="squeeze", mean=(0, 0, 0), deviation=(1, 1, 1))
