"""The losses of masks beside LISA's formulas, written out pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llmbind_cli.nn.losses import mask_bce_loss, mask_dice_loss

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # float64: a few hundred sums of rounded terms


def masks(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(shape, generator=generator) < 0.3).double()


def literal_bce(logits: Tensor, target: Tensor) -> float:
    total = 0.0
    for scores, truth in zip(logits.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        pixels = [
            -t * math.log(1 / (1 + math.exp(-s))) - (1 - t) * math.log(1 / (1 + math.exp(s)))
            for s, t in zip(scores, truth, strict=True)
        ]
        total += sum(pixels) / len(pixels)
    return total / len(logits)


def literal_dice(logits: Tensor, target: Tensor) -> float:
    total = 0.0
    for scores, truth in zip(logits.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        p = [1 / (1 + math.exp(-s)) for s in scores]
        both = sum(a * t for a, t in zip(p, truth, strict=True))
        total += 1 - (2 * both / 1000 + 1e-6) / (sum(p) / 1000 + sum(truth) / 1000 + 1e-6)
    return total / len(logits)


@pytest.mark.parametrize("shape", [(1, 5, 7), (4, 6, 3), (3, 1, 1)])
def test_losses_equal_the_literal_formulas(shape: tuple[int, ...]) -> None:
    logits, target = masks(*shape)
    assert mask_bce_loss(logits, target).item() == pytest.approx(
        literal_bce(logits, target), rel=1e-12
    )
    assert mask_dice_loss(logits, target).item() == pytest.approx(
        literal_dice(logits, target), rel=1e-12
    )


def test_hand_computed_values() -> None:
    # p = 1/2 everywhere: the cross-entropy is log 2. Two of four pixels are in the target:
    # 1 − (2 · 1 / 1000 + 1e-6) / (2 / 1000 + 2 / 1000 + 1e-6) = 1 − 0.002001 / 0.004001
    logits = torch.zeros(1, 2, 2, dtype=torch.float64)
    target = torch.tensor([[[1, 0], [0, 1]]])
    assert mask_bce_loss(logits, target).item() == pytest.approx(math.log(2), rel=1e-14)
    assert mask_dice_loss(logits, target).item() == pytest.approx(1 - 0.002001 / 0.004001)


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_each_mask_counts_alike_and_alone(loss) -> None:
    logits, target = masks(5, 4, 6)
    logits.requires_grad_(True)
    whole = loss(logits, target)
    alone = torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole, alone.mean(), **EXACT)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(loss(logits[order], target[order]), whole, **EXACT)
    shaped = loss(logits.view(5, 1, 4, 6), target.view(5, 1, 4, 6).bool())
    torch.testing.assert_close(shaped, whole, **EXACT)
    (gradient,) = torch.autograd.grad(whole, logits)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_gradcheck(loss) -> None:
    logits, target = masks(2, 3, 2)
    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(True), target))


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_no_mask_and_sure_masks(loss) -> None:
    none = torch.zeros(0, 4, 4, requires_grad=True)
    value = loss(none, torch.zeros(0, 4, 4))
    assert value.item() == 0.0
    value.backward()
    target = torch.zeros(2, 4, 4)
    target[0, 1:3] = 1.0
    right = loss((2 * target - 1) * 100, target)
    assert right.item() == pytest.approx(0.0, abs=1e-6)  # float32
    wrong = loss((1 - 2 * target) * 100, target)
    assert wrong.item() > 0.9


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_shapes_that_differ_are_refused(loss) -> None:
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\) and \(2, 4, 5\)"):
        loss(torch.zeros(2, 4, 4), torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match=r"\[..., H, W\]"):
        loss(torch.zeros(4), torch.zeros(4))


@pytest.mark.parametrize("loss", [mask_bce_loss, mask_dice_loss])
def test_half_precision_is_summed_in_float32(loss) -> None:
    logits, target = masks(2, 64, 64)
    half = logits.bfloat16()
    value = loss(half, target)
    assert value.dtype == torch.float32
    # Only the logits are rounded, not the sums over 4096 pixels.
    assert value.item() == pytest.approx(loss(half.double(), target).item(), rel=1e-5)
