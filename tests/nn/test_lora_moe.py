"""Parity of the one-product LoRA-MoE with its literal formula, and its numeric behaviour."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from literal_lora_moe import D_IN, D_OUT, EXACT, gradients, leaves, literal, make_layer
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.errors import UsageError
from llmbind_cli.nn.lora_moe import LoraMoeLinear
from llmbind_cli.nn.router import Router, collect_router_probs


@pytest.mark.parametrize("shape", [(D_IN,), (5, D_IN), (2, 7, D_IN), (2, 3, 4, D_IN), (0, D_IN)])
@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 2), (4, 1), (4, 0), (4, 4), (3, 2), (1, 1)])
def test_values_and_all_gradients_equal_the_literal_formula(
    shape: tuple[int, ...], num_experts: int, top_k: int
) -> None:
    layer = make_layer(num_experts=num_experts, top_k=top_k)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    ours, reference = layer(x), literal(layer, x)
    torch.testing.assert_close(ours, reference, **EXACT)
    for ours_grad, reference_grad in zip(
        gradients(ours, leaves(layer, x)), gradients(reference, leaves(layer, x)), strict=True
    ):
        torch.testing.assert_close(ours_grad, reference_grad, **EXACT)


def hook(layer: LoraMoeLinear) -> None:
    layer.base_layer.register_forward_hook(lambda module, args, output: 2.0 * output)


def train_weight(layer: LoraMoeLinear) -> None:
    layer.base_layer.weight.requires_grad_(True)


def train_bias(layer: LoraMoeLinear) -> None:
    layer.base_layer.bias.requires_grad_(True)


@pytest.mark.parametrize("change", [hook, train_weight, train_bias])
def test_a_base_layer_that_is_more_than_a_frozen_matrix(
    change: Callable[[LoraMoeLinear], None],
) -> None:
    layer = make_layer()
    change(layer)
    x = torch.randn(2, 5, D_IN, dtype=torch.float64, requires_grad=True)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    ours, reference = layer(x), literal(layer, x)
    torch.testing.assert_close(ours, reference, **EXACT)
    for pair in zip(gradients(ours, wanted), gradients(reference, wanted), strict=True):
        torch.testing.assert_close(*pair, **EXACT)


@pytest.mark.parametrize("top_k", [2, 0])
@pytest.mark.parametrize("trainable", [("x",), ("lora_A",), ("lora_B",), ("router",), ()])
def test_gradients_that_nobody_asks_for_change_nothing(
    trainable: tuple[str, ...], top_k: int
) -> None:
    layer = make_layer(top_k=top_k)
    x = torch.randn(5, D_IN, dtype=torch.float64)
    named = dict(zip(("x", "lora_A", "lora_B", "router"), leaves(layer, x), strict=True))
    for name, tensor in named.items():
        tensor.requires_grad_(name in trainable)
    wanted = [named[name] for name in trainable]
    ours, reference = layer(x), literal(layer, x)
    torch.testing.assert_close(ours, reference, **EXACT)
    assert ours.requires_grad == bool(trainable)
    if wanted:
        for pair in zip(gradients(ours, wanted), gradients(reference, wanted), strict=True):
            torch.testing.assert_close(*pair, **EXACT)


@pytest.mark.parametrize("top_k", [0, 2])
def test_gradcheck(top_k: int) -> None:
    layer = make_layer(top_k=top_k, rank=2)
    # Widely spaced logits: a finite difference must not change which experts are chosen.
    x = 3.0 * torch.randn(4, D_IN, dtype=torch.float64)
    x.requires_grad_(True)

    def run(*inputs: Tensor) -> Tensor:
        named = dict(zip(("lora_A", "lora_B", "router.weight"), inputs[1:], strict=True))
        output: Tensor = torch.func.functional_call(layer, named, inputs[0])
        return output

    assert torch.autograd.gradcheck(run, leaves(layer, x))


def test_a_gate_that_underflows_gives_finite_exact_gradients() -> None:
    layer = make_layer(top_k=2, dtype=torch.float32)
    with torch.no_grad():
        layer.router.weight.mul_(1e4)
    x = torch.randn(6, D_IN, requires_grad=True)
    for grad in gradients(layer(x), leaves(layer, x)):
        assert torch.isfinite(grad).all()


def test_zero_up_projection_is_exactly_the_base_layer() -> None:
    layer = make_layer(dtype=torch.float32)
    layer.reset_parameters()
    x = torch.randn(3, 5, D_IN)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_a_row_does_not_depend_on_the_rest_of_the_batch() -> None:
    layer = make_layer()
    x = torch.randn(6, D_IN, dtype=torch.float64)
    alone = torch.cat([layer(row.unsqueeze(0)) for row in x])
    torch.testing.assert_close(layer(x), alone, **EXACT)


def test_renaming_the_experts_changes_nothing() -> None:
    layer, renamed = make_layer(), make_layer()
    for order in itertools.islice(itertools.permutations(range(4)), 1, 24, 5):
        with torch.no_grad():
            a = layer.lora_A.view(4, 3, D_IN)[list(order)].reshape(12, D_IN)
            b = layer.lora_B.view(D_OUT, 4, 3)[:, list(order)].reshape(D_OUT, 12)
            renamed.lora_A.copy_(a)
            renamed.lora_B.copy_(b)
            renamed.router.weight.copy_(layer.router.weight[list(order)])
        x = torch.randn(9, D_IN, dtype=torch.float64)
        torch.testing.assert_close(renamed(x), layer(x), **EXACT)


def test_initial_values() -> None:
    torch.manual_seed(0)
    layer = LoraMoeLinear(nn.Linear(400, 300), num_experts=4, top_k=2, rank=8, alpha=16)
    assert layer.lora_A.shape == (32, 400)
    assert layer.lora_B.shape == (300, 32)
    assert layer.router.weight.shape == (4, 400)
    assert layer.lora_A.abs().max() <= 1 / 20  # Kaiming, a = √5, is U(-1/√Di, 1/√Di)
    assert layer.lora_A.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)
    assert not layer.lora_B.any()
    assert layer.router.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("top_k", [0, 1])
def test_one_expert_equals_peft_lora(top_k: int) -> None:
    layer = make_layer(num_experts=1, top_k=top_k, rank=4)
    host = nn.Sequential(layer.base_layer)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["0"])
    peft_layer = inject_adapter_in_model(config, host)[0]
    peft_layer.double()
    a, b = peft_layer.lora_A["default"].weight, peft_layer.lora_B["default"].weight
    with torch.no_grad():
        a.copy_(layer.lora_A)
        b.copy_(layer.lora_B)
    x = torch.randn(2, 5, D_IN, dtype=torch.float64, requires_grad=True)
    ours, theirs = layer(x), peft_layer(x)
    torch.testing.assert_close(ours, theirs, **EXACT)
    ours_grads = gradients(ours, [x, layer.lora_A, layer.lora_B])
    for pair in zip(ours_grads, gradients(theirs, [x, a, b]), strict=True):
        torch.testing.assert_close(*pair, **EXACT)


@pytest.mark.parametrize("top_k", [0, 2])
def test_saved_floats_per_token_stay_within_the_bound(top_k: int) -> None:
    num_experts, rank, num_tokens = 4, 3, 1000
    layer = make_layer(num_experts=num_experts, rank=rank, top_k=top_k, dtype=torch.float32)
    x = torch.randn(num_tokens, D_IN, requires_grad=True)
    known = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    known.add(x.untyped_storage().data_ptr())
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        collect_router_probs(layer) as record,
    ):
        output = layer(x)
        without_collection = sum(saved.values()) / num_tokens
        probs = record.probs()
    assert 0 < without_collection <= num_experts * rank + num_experts
    assert sum(saved.values()) / num_tokens <= num_experts * rank + 3 * num_experts
    assert output.requires_grad
    assert probs[0].requires_grad


def test_dropout_thins_the_experts_input_but_not_the_routers() -> None:
    layer = make_layer(dropout=0.5)
    x = torch.randn(7, D_IN, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    ours = layer(x)
    torch.manual_seed(5)
    kept = functional.dropout(x, 0.5)
    probs = torch.softmax(x @ layer.router.weight.T, dim=-1)
    gates = torch.where(probs >= probs.sort(dim=-1).values[:, -2:-1], probs, 0.0)
    gates = gates / gates.sum(dim=-1, keepdim=True)
    activations = (kept @ layer.lora_A.T) * gates.repeat_interleave(layer.rank, dim=-1)
    reference = layer.base_layer(x) + 16.0 / 3 * activations @ layer.lora_B.T
    torch.testing.assert_close(ours, reference, **EXACT)
    for pair in zip(
        gradients(ours, leaves(layer, x)), gradients(reference, leaves(layer, x)), strict=True
    ):
        torch.testing.assert_close(*pair, **EXACT)
    torch.testing.assert_close(layer.eval()(x), literal(layer, x), **EXACT)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("base_dtype", [torch.bfloat16, torch.float32])
def test_autocast_bf16(base_dtype: torch.dtype, top_k: int, shared: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 48, dtype=base_dtype).requires_grad_(False)
    router = Router(in_features=64, num_experts=4, top_k=top_k) if shared else None
    layer = LoraMoeLinear(base, num_experts=4, top_k=top_k, rank=8, alpha=16.0, router=router)
    nn.init.normal_(layer.lora_B, std=0.05)
    nn.init.normal_(layer.router.weight, std=0.5)  # so that hardly any choice is a near tie
    x = torch.randn(2, 30, 64, dtype=base_dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    assert layer.lora_A.dtype == layer.router.weight.dtype == torch.float32
    output.float().square().sum().backward()
    reference_layer = make_reference(layer)
    x_reference = x.detach().float().requires_grad_(True)
    reference = literal(reference_layer, x_reference)
    reference.square().sum().backward()
    # bf16 keeps 8 bits; a token whose second and third logit nearly tie may choose otherwise.
    assert relative_error(output, reference) < 0.02
    for ours, theirs in [
        (x, x_reference),
        *zip(leaves(layer, x)[1:], leaves(reference_layer, x)[1:], strict=True),
    ]:
        assert ours.grad is not None
        assert ours.grad.dtype == ours.dtype
        assert relative_error(ours.grad, theirs.grad) < 0.05


def make_reference(layer: LoraMoeLinear) -> LoraMoeLinear:
    """A float32 layer with the same weights."""
    base = nn.Linear(64, 48).requires_grad_(False)
    reference = LoraMoeLinear(base, num_experts=4, top_k=layer.top_k, rank=8, alpha=layer.alpha)
    reference.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    return reference


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours.float() - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("base_dtype", [torch.bfloat16, torch.float16])
def test_a_low_precision_base_without_autocast(base_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 48, dtype=base_dtype).requires_grad_(False)
    layer = LoraMoeLinear(base, num_experts=4, top_k=2, rank=8, alpha=16.0)
    nn.init.normal_(layer.lora_B, std=0.05)
    x = torch.randn(30, 64, dtype=base_dtype, requires_grad=True)
    output = layer(x)
    assert output.dtype == base_dtype
    reference = literal(make_reference(layer), x.detach().float())
    assert relative_error(output, reference) < 0.005  # only the result is rounded
    output.float().square().sum().backward()
    assert x.grad is not None
    assert layer.lora_A.grad is not None
    assert (x.grad.dtype, layer.lora_A.grad.dtype) == (base_dtype, torch.float32)


@pytest.mark.parametrize("shape", [(D_IN,), (1, 1, D_IN), (2, 7, D_IN)])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_gives_the_same_values(mode: type, shape: tuple[int, ...]) -> None:
    layer = make_layer()
    x = torch.randn(shape, dtype=torch.float64)
    with_gradient = layer(x)
    with mode():
        torch.testing.assert_close(layer(x), with_gradient.detach(), **EXACT)


class CalledOnly(nn.Linear):
    """Stands for a quantised linear: its weight is no matrix, only a call gives the product."""

    def __init__(self, weight: Tensor, packed: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False)
        self.original = weight
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.original.T


@pytest.mark.parametrize(
    "packed",
    [torch.zeros(D_OUT * D_IN // 2, 1, dtype=torch.uint8), torch.zeros(D_OUT, D_IN)],
)
def test_the_weight_of_another_kind_of_linear_is_never_read(packed: Tensor) -> None:
    torch.manual_seed(0)
    layer = LoraMoeLinear(
        CalledOnly(torch.randn(D_OUT, D_IN), packed), num_experts=4, top_k=2, rank=3, alpha=16.0
    )
    assert layer.lora_A.dtype == torch.float32
    nn.init.normal_(layer.lora_B)
    x = torch.randn(2, 5, D_IN, requires_grad=True)
    # float32 products of width 12
    torch.testing.assert_close(layer(x), literal(layer, x), rtol=1e-4, atol=1e-5)
    for pair in zip(
        gradients(layer(x), leaves(layer, x)),
        gradients(literal(layer, x), leaves(layer, x)),
        strict=True,
    ):
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


def test_merging_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot be merged .* depend on the token"):
        make_layer().merge(safe_merge=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "num_experts must be ≥ 1, got 0"),
        ({"top_k": 5}, r"top_k must be between 0 \(dense\) and num_experts = 4, got 5"),
        ({"top_k": -1}, r"top_k must be between 0 .* got -1"),
        ({"rank": 0}, "rank must be ≥ 1, got 0"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"alpha": float("nan")}, "alpha must be > 0, got nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (
            {"router": Router(in_features=D_IN, num_experts=3, top_k=2)},
            "router was made for num_experts = 3, top_k = 2",
        ),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    arguments = {"num_experts": 4, "top_k": 2, "rank": 3, "alpha": 16.0} | options
    with pytest.raises(ValueError, match=message):
        LoraMoeLinear(nn.Linear(D_IN, D_OUT), **arguments)
