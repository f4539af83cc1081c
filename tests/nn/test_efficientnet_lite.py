"""EfficientNet-lite0: folding, layout, independence of a batch, and its real weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from llmbind_cli.nn.efficientnet_lite import WIDTH, EfficientNetLite0, folded


def test_folding_keeps_what_convolution_and_normalisation_computed() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        name.removesuffix(".convolution.weight"): value.shape
        for name, value in EfficientNetLite0().state_dict().items()
        if name.endswith("convolution.weight")
    }
    old: dict[str, Tensor] = {}
    parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
    parts["project"] = ("_project_conv", "_bn2")
    for name, shape in shapes.items():
        if name.startswith("blocks."):
            _, number, part = name.split(".")
            convolution, norm = (f"_blocks.{number}.{own}" for own in parts[part])
        else:
            convolution, norm = ("_conv_stem", "_bn0") if name == "stem" else ("_conv_head", "_bn1")
        old[f"{convolution}.weight"] = torch.randn(shape, generator=generator)
        for key in ("weight", "bias", "running_mean", "running_var"):
            old[f"{norm}.{key}"] = torch.rand(shape[0], generator=generator) + 0.5
    backbone = EfficientNetLite0()
    backbone.load_state_dict(folded(old))
    pictures = torch.rand(2, 3, 32, 32, generator=generator)
    # TensorFlow's "same": at stride 2 and an even side the one pixel comes after, none before.
    plain = functional.conv2d(
        functional.pad(pictures, (0, 1, 0, 1)), old["_conv_stem.weight"], None, 2
    )
    expected = functional.batch_norm(
        plain,
        old["_bn0.running_mean"],
        old["_bn0.running_var"],
        old["_bn0.weight"],
        old["_bn0.bias"],
        eps=1e-3,
    ).clamp(0, 6)
    # Another order of float32 sums of 27 products each.
    torch.testing.assert_close(backbone.stem(pictures), expected, atol=2e-5, rtol=1e-5)


def test_layout_is_that_of_the_judge_s_files() -> None:
    names = [name for name, _ in EfficientNetLite0().named_parameters()]
    assert names[:4] == [
        "stem.convolution.weight",
        "stem.convolution.bias",
        "blocks.0.depthwise.convolution.weight",
        "blocks.0.depthwise.convolution.bias",
    ]
    assert names[-2:] == ["top.convolution.weight", "top.convolution.bias"]
    assert len(names) == 2 * (2 + 2 + 15 * 3)
    # Of the 4,652,008 parameters of the published network, 1,281,000 are its head's; folding
    # keeps one bias of the two parameters of each normalisation.
    assert (
        sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008 - 1_281_000 - 21_008
    )


def test_features_of_a_picture_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    pictures = torch.rand(3, 3, 64, 64)
    together = network(pictures)
    assert together.shape == (3, WIDTH)
    alone = torch.cat([network(picture[None]) for picture in pictures])
    # float32: another order of sums for another batch size
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
