"""Routers shared by a block, collection of their probabilities, checkpointing and compiling."""

from __future__ import annotations

import pytest
import torch
from literal_lora_moe import D_IN, EXACT, gradients, literal, literal_block, make_block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmbind_cli.nn.losses import load_balancing_loss
from llmbind_cli.nn.router import Router, collect_router_probs


@pytest.mark.parametrize("keyword", [False, True])
def test_a_shared_router_routes_every_linear_by_the_block_input(keyword: bool) -> None:
    block = make_block(shared=True)
    x = torch.randn(2, 6, D_IN, dtype=torch.float64, requires_grad=True)
    ours = block(hidden_states=x) if keyword else block(x)
    reference = literal_block(block, x)
    torch.testing.assert_close(ours, reference, **EXACT)
    wanted = [x, *(p for p in block.parameters() if p.requires_grad)]
    assert len(wanted) == 1 + 6 + 1
    for pair in zip(gradients(ours, wanted), gradients(reference, wanted), strict=True):
        torch.testing.assert_close(*pair, **EXACT)


def test_a_shared_router_keeps_nothing_after_its_block() -> None:
    block = make_block(shared=True)
    router = block.gate_proj.router
    block(torch.randn(2, D_IN, dtype=torch.float64))
    assert router.block_routing is None
    with pytest.raises(ValueError, match=r"router of width 12 got hidden states of width 13"):
        block(torch.randn(2, D_IN + 1, dtype=torch.float64))
    block.down_proj = nn.Linear(1, 1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        block(torch.randn(2, D_IN, dtype=torch.float64))
    assert router.block_routing is None


def test_a_shared_router_outside_its_block() -> None:
    block = make_block(shared=True)
    x = torch.randn(5, D_IN, dtype=torch.float64)
    torch.testing.assert_close(block.gate_proj(x), literal(block.gate_proj, x), **EXACT)
    with pytest.raises(ValueError, match="called inside that block"):
        block.down_proj(torch.randn(5, 20, dtype=torch.float64))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_values_and_gradients(
    use_reentrant: bool, shared: bool
) -> None:
    block = make_block(shared=shared)
    x = torch.randn(2, 6, D_IN, dtype=torch.float64, requires_grad=True)
    trained = [p for p in block.parameters() if p.requires_grad]
    plain = gradients(block(x), [x, *trained])
    output = checkpoint(block, x, use_reentrant=use_reentrant)
    torch.manual_seed(7)
    (output * torch.randn_like(output)).sum().backward()
    for grad, leaf in zip(plain, [x, *trained], strict=True):
        torch.testing.assert_close(leaf.grad, grad, **EXACT)


@pytest.mark.parametrize("shared", [False, True])
def test_collected_probabilities_train_the_router(shared: bool) -> None:
    block = make_block(shared=shared)
    x = torch.randn(2, 6, D_IN, dtype=torch.float64)
    with collect_router_probs(block) as record:
        block(x)
    probs = record.probs()
    assert len(record) == len(probs) == (1 if shared else 3)
    assert all(p.shape == (2, 6, 4) for p in probs)
    weight = block.gate_proj.router.weight
    expected = torch.softmax(x @ weight.T, dim=-1)
    torch.testing.assert_close(probs[0], expected, **EXACT)
    ours = torch.autograd.grad(load_balancing_loss(probs[0], coefficient=0.01), weight)
    reference = torch.autograd.grad(load_balancing_loss(expected, coefficient=0.01), weight)
    torch.testing.assert_close(ours, reference, **EXACT)
    assert ours[0].abs().max() > 0


def test_nothing_is_collected_outside_the_context() -> None:
    block = make_block(shared=False)
    x = torch.randn(2, D_IN, dtype=torch.float64)
    with collect_router_probs(block) as record:
        block(x)
    block(x)
    assert len(record) == 3
    assert all(m.record is None for m in block.modules() if isinstance(m, Router))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("backward_inside", [False, True])
def test_collection_under_checkpointing(backward_inside: bool, shared: bool) -> None:
    block = make_block(shared=shared)
    x = torch.randn(2, 6, D_IN, dtype=torch.float64, requires_grad=True)
    trained = [p for p in block.parameters() if p.requires_grad]

    def auxiliary(probs: list[Tensor]) -> Tensor:
        return torch.stack([load_balancing_loss(p, coefficient=1.0) for p in probs]).sum()

    with collect_router_probs(block) as record:
        loss = block(x).square().sum() + auxiliary(record.probs())
    plain = torch.autograd.grad(loss, trained)
    with collect_router_probs(block) as record:
        loss = checkpoint(block, x, use_reentrant=False).square().sum() + auxiliary(record.probs())
        recorded = len(record)
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    assert len(record) == recorded == (1 if shared else 3)
    for grad, leaf in zip(plain, trained, strict=True):
        torch.testing.assert_close(leaf.grad, grad, **EXACT)


def test_collection_refuses_reentrant_checkpointing() -> None:
    block = make_block(shared=False)
    x = torch.randn(2, D_IN, dtype=torch.float64, requires_grad=True)
    with (
        collect_router_probs(block),
        pytest.raises(RuntimeError, match="use_reentrant=False"),
    ):
        checkpoint(block, x, use_reentrant=True)
    block.eval()
    with torch.no_grad(), collect_router_probs(block) as record:
        block(x)
    assert len(record) == 3


def test_a_router_needs_a_width() -> None:
    with pytest.raises(ValueError, match="in_features must be ≥ 1, got 0"):
        Router(in_features=0, num_experts=2, top_k=1)


# The compiler warns about its own inner workings.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shared", [False, True])
def test_torch_compile_gives_the_same_values(shared: bool, backend: str) -> None:
    block = make_block(shared=shared)
    x = torch.randn(2, 6, D_IN, dtype=torch.float64, requires_grad=True)
    trained = [x, *(p for p in block.parameters() if p.requires_grad)]
    compiled = torch.compile(block, backend=backend)
    torch.testing.assert_close(compiled(x), block(x), **EXACT)
    plain = gradients(block(x), trained)
    for pair in zip(gradients(compiled(x), trained), plain, strict=True):
        torch.testing.assert_close(*pair, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x), **EXACT)
    with collect_router_probs(block) as record:
        compiled(x)
    with collect_router_probs(block) as reference:
        block(x)
    for pair in zip(record.probs(), reference.probs(), strict=True):
        torch.testing.assert_close(*pair, **EXACT)
