"""Muon: orthogonal updates in the format that the processor multiplies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from resumable import muon
from resumable.muon import Muon, orthogonal


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr(muon, "choose_dtype", lambda _name, _device: torch.float32)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_singular_values_come_near_1(shape):
    matrix = 1e-3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrix).float()
    assert made.shape == shape
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert not orthogonal(torch.zeros(shape)).any()


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
@pytest.mark.usefixtures("in_float32")
def test_steps_are_those_of_torch_but_for_its_rounding(shape):
    """torch.optim.Muon rounds to bfloat16, eight bits, in each of five iterations."""
    chance = torch.Generator().manual_seed(0)
    start = torch.randn(*shape, generator=chance)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.05}
    optimizers = (
        Muon([ours], **settings),
        torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings),
    )
    for _ in range(3):
        gradient = torch.randn(*shape, generator=chance)
        for matrix, optimizer in zip((ours, theirs), optimizers, strict=True):
            matrix.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).abs().mean()
    assert (ours - theirs).abs().max() < 0.1 * moved


@pytest.mark.usefixtures("in_float32")
def test_its_state_goes_on():
    start, gradients = torch.ones(2, 3), torch.randn(3, 2, 3)

    def run(stops):
        matrix = torch.nn.Parameter(start.clone())
        optimizer = Muon([matrix])
        for step, gradient in enumerate(gradients):
            if step in stops:
                state = optimizer.state_dict()
                optimizer = Muon([matrix])
                optimizer.load_state_dict(state)
            matrix.grad = gradient.clone()
            optimizer.step()
        return matrix.detach()

    assert torch.equal(run([]), run([1, 2]))
