"""Projector, projection of the prompt, box head and its losses; masks of which not all counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from llmbind_cli.nn.box_head import BoxHead, box_giou_loss, box_l1_loss
from llmbind_cli.nn.losses import mask_bce_loss, mask_dice_loss
from llmbind_cli.nn.projector import Projector
from llmbind_cli.nn.prompt_projection import PromptProjection


def test_the_projector_is_two_linears_with_a_gelu_between_or_one():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 5)
    two = Projector(width=5, hidden_size=7)
    expected = two.linear_2(functional.gelu(two.linear_1(features)))
    assert torch.equal(two(features), expected)
    one = Projector(width=5, hidden_size=7, num_layers=1)
    assert torch.equal(one(features), one.linear_1(features))
    assert set(one.state_dict()) == {"linear_1.weight", "linear_1.bias"}


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_matched_projector_speaks_at_the_scale_asked_for(num_layers):
    torch.manual_seed(0)
    projector = Projector(width=200, hidden_size=300, num_layers=num_layers)
    projector.match_scale(0.05)
    rms = projector(torch.randn(50, 200)).square().mean().sqrt()
    assert 0.03 < rms < 0.08


def test_the_prompt_is_linear_relu_linear():
    torch.manual_seed(0)
    projection, states = PromptProjection(hidden_size=6, prompt_width=4), torch.randn(3, 6)
    expected = projection.linear_2(projection.linear_1(states).clamp(min=0))
    assert torch.equal(projection(states), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Projector(width=0, hidden_size=3), "width and hidden_size must be ≥ 1, got 0"),
        (lambda: Projector(width=1, hidden_size=3, num_layers=3), "num_layers must be 1 or 2"),
        (lambda: PromptProjection(hidden_size=3, prompt_width=0), "must be ≥ 1, got 3 and 0"),
        (lambda: BoxHead(hidden_size=0), "hidden_size must be ≥ 1, got 0"),
    ],
)
def test_sizes_below_one_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def literal_giou(one, other) -> float:
    """Generalised IoU by areas, written out."""
    inner_w = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    inner_h = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    inner = inner_w * inner_h
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    union = areas - inner
    hull_w = max(one[2], other[2]) - min(one[0], other[0])
    hull_h = max(one[3], other[3]) - min(one[1], other[1])
    hull = hull_w * hull_h
    return inner / union - (hull - union) / hull


def test_losses_of_boxes_are_the_literal_ones():
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.0, 0.0, 0.2, 0.2], [0.3, 0.3, 0.7, 0.7]])
    target = torch.tensor([[0.2, 0.3, 0.6, 0.7], [0.5, 0.5, 0.9, 0.8], [0.3, 0.3, 0.7, 0.7]])
    pairs = list(zip(boxes.tolist(), target.tolist(), strict=True))
    giou = [literal_giou(one, other) for one, other in pairs]
    assert giou[2] == pytest.approx(1.0)
    assert giou[1] < 0
    assert float(box_giou_loss(boxes, target)) == pytest.approx(1 - sum(giou) / 3, abs=1e-6)
    l1 = sum(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)) / 3
    assert float(box_l1_loss(boxes, target)) == pytest.approx(l1, abs=1e-6)
    assert float(box_giou_loss(boxes[:0], target[:0])) == 0
    with pytest.raises(ValueError, match=r"one shape \[M, 4\]"):
        box_l1_loss(boxes, target[:2])


def test_boxes_lie_in_order():
    torch.manual_seed(0)
    boxes = BoxHead(hidden_size=5)(torch.randn(20, 5) * 10)
    assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_pixels_that_do_not_count_change_nothing():
    """The same as if the mask ended before them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 8, generator=generator, dtype=torch.float64)
    target = (torch.rand(3, 6, 8, generator=generator) < 0.4).double()
    counted = torch.zeros(3, 6, 8, dtype=torch.bool)
    counted[:, :, :5] = True
    for loss in (mask_bce_loss, mask_dice_loss):
        cut = loss(logits[:, :, :5], target[:, :, :5])
        torch.testing.assert_close(loss(logits, target, counted=counted), cut, rtol=1e-12, atol=0)
        everything = loss(logits, target, counted=torch.ones_like(counted))
        torch.testing.assert_close(everything, loss(logits, target), rtol=1e-12, atol=0)
    assert float(mask_bce_loss(logits, target, counted=torch.zeros_like(counted))) == 0
