"""The last blocks of EfficientNet-lite0, tuned."""

from __future__ import annotations

import pytest
import torch

from llmbind_cli.nn.efficientnet_lite import CHANNELS, EfficientNetLite0, LastBlocks
from llmbind_cli.nn.tuned_stage import TunedStage

BESIDE = 5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return EfficientNetLite0().requires_grad_(False)


@pytest.fixture(scope="module")
def maps(network):
    return network.feature_maps(torch.randn(2, 3, 96, 96))


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_what_comes_after_a_map_makes_of_it_what_the_network_does(network, maps, stride):
    last = LastBlocks(stride)
    last.take(network)
    assert torch.equal(last(maps[stride]), maps[32])


@pytest.mark.parametrize("stride", [2, 32])
def test_there_must_be_such_a_map_and_blocks_after_it(stride):
    with pytest.raises(ValueError, match=f"stride must be one of 4, 8, 16, got {stride}"):
        LastBlocks(stride)


@pytest.mark.parametrize("stride", [8, 16])
def test_folded_cells_are_refined_and_what_stands_beside_them_passes(network, maps, stride):
    torch.manual_seed(1)
    stage = TunedStage(stride=stride, beside=BESIDE).requires_grad_(False)
    stage.last.take(network)
    folded = torch.nn.functional.pixel_unshuffle(maps[stride], 32 // stride).flatten(2)
    beside = torch.randn(2, 9, BESIDE)
    cells = torch.cat([folded.transpose(1, 2), beside], dim=2)
    assert cells.shape[2] == CHANNELS[stride] * (32 // stride) ** 2 + BESIDE
    refined = stage(cells)
    assert refined.shape == (2, 9, stage.width)
    assert torch.equal(refined[..., -BESIDE:], beside)
    expected = stage.neck(stage.lateral(maps[32])).flatten(2).transpose(1, 2)
    torch.testing.assert_close(refined[..., :-BESIDE], expected)


def test_gradients_in_few_bits_are_about_those_in_many(network, maps):
    """Channels filtered alone are filtered in float32 where their gradients are asked for."""
    wanted, found = [], []
    for bits, grads in ((False, wanted), (True, found)):
        last = LastBlocks(16)
        last.take(network)
        with torch.autocast("cpu", torch.bfloat16, enabled=bits):
            last(maps[16]).float().square().mean().backward()
        grads += [parameter.grad.flatten() for parameter in last.parameters()]
    for one, other in zip(wanted, found, strict=True):
        if one.any():
            assert torch.cosine_similarity(one, other, dim=0) > 0.98
