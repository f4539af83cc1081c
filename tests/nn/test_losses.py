"""Exact values of the auxiliary loss."""

from __future__ import annotations

import pytest
import torch

from llmbind_cli.nn.losses import load_balancing_loss


def test_balanced_routing_gives_the_coefficient() -> None:
    # One token per expert, each sure of its own: f_i = P_i = 1/4.
    loss = load_balancing_loss(torch.eye(4), coefficient=0.01)
    assert loss.item() == pytest.approx(0.01, rel=1e-6)
    uniform = load_balancing_loss(torch.full((3, 5, 4), 0.25), coefficient=0.01)
    assert uniform.item() == pytest.approx(0.01, rel=1e-6)


def test_collapsed_routing_gives_n_times_the_coefficient() -> None:
    probs = torch.zeros(2, 7, 4)
    probs[..., 2] = 1.0
    assert load_balancing_loss(probs, coefficient=0.01).item() == pytest.approx(0.04, rel=1e-6)


def test_a_hand_computed_value_and_its_gradient() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3], [0.1, 0.2, 0.7]], dtype=torch.float64)
    probs.requires_grad_(True)
    loss = load_balancing_loss(probs, coefficient=2.0)
    # f = (2/3, 0, 1/3), P = (0.4, 0.2, 0.4): 2 · 3 · (2/3 · 0.4 + 1/3 · 0.4) = 2.4
    assert loss.item() == pytest.approx(2.4, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, probs)
    expected = torch.tensor([4 / 3, 0.0, 2 / 3], dtype=torch.float64).expand(3, 3)
    torch.testing.assert_close(gradient, expected)


def test_padding_is_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.softmax(torch.randn(2, 6, 4, generator=generator), dim=-1)
    padding_mask = torch.zeros(2, 6, dtype=torch.bool)
    padding_mask[0, 4:] = True
    padding_mask[1, 1:] = True
    kept = load_balancing_loss(probs[~padding_mask], coefficient=0.01)
    probs[padding_mask] = float("nan")
    probs.requires_grad_(True)
    loss = load_balancing_loss(probs, padding_mask=padding_mask, coefficient=0.01)
    torch.testing.assert_close(loss, kept)
    (gradient,) = torch.autograd.grad(loss, probs)
    assert not gradient[padding_mask].any()
    assert gradient[~padding_mask].any()


def test_nothing_but_padding_gives_zero() -> None:
    probs = torch.full((2, 3, 4), 0.25, requires_grad=True)
    loss = load_balancing_loss(
        probs, padding_mask=torch.ones(2, 3, dtype=torch.bool), coefficient=0.01
    )
    assert loss.item() == 0.0
    loss.backward()


def test_masks_that_would_be_misread_are_refused() -> None:
    probs = torch.full((2, 3, 4), 0.25)
    with pytest.raises(ValueError, match="padding_mask must be bool"):
        load_balancing_loss(probs, padding_mask=torch.ones(2, 3), coefficient=0.01)
    with pytest.raises(ValueError, match=r"must have shape \(2, 3\)"):
        load_balancing_loss(
            probs, padding_mask=torch.ones(3, 2, dtype=torch.bool), coefficient=0.01
        )
