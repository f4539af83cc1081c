"""The literal formula of LoRA-MoE, and layers and blocks to compare with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.nn.lora_moe import LoraMoeLinear
from llmbind_cli.nn.router import Router

D_IN, D_OUT = 12, 10
# Both sides are float64 and differ in the order of at most a few hundred additions.
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def make_layer(
    *,
    num_experts: int = 4,
    top_k: int = 2,
    rank: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **options: object,
) -> LoraMoeLinear:
    """A layer over a frozen base, with an up projection and a router far from their start."""
    torch.manual_seed(seed)
    base = nn.Linear(D_IN, D_OUT, dtype=dtype).requires_grad_(False)
    layer = LoraMoeLinear(
        base, num_experts=num_experts, top_k=top_k, rank=rank, alpha=16.0, **options
    )
    with torch.no_grad():
        layer.lora_B.normal_()
        layer.router.weight.normal_()
    return layer


def literal(layer: LoraMoeLinear, x: Tensor, router_input: Tensor | None = None) -> Tensor:
    """Eq. 3-6 as written: a loop over experts; softmax, then top-k, then division by the sum."""
    routed = x if router_input is None else router_input
    probs = torch.softmax(routed @ layer.router.weight.T, dim=-1)
    gates = probs
    if layer.top_k not in (0, layer.num_experts):
        threshold = probs.sort(dim=-1, descending=True).values[..., layer.top_k - 1 : layer.top_k]
        gates = torch.where(probs >= threshold, probs, 0.0)
        gates = gates / gates.sum(dim=-1, keepdim=True)
    output = layer.base_layer(x)
    for i in range(layer.num_experts):
        rows = slice(i * layer.rank, (i + 1) * layer.rank)
        expert = x @ layer.lora_A[rows].T @ layer.lora_B[:, rows].T
        output = output + layer.alpha / layer.rank * gates[..., i : i + 1] * expert
    return output


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(7)
    return list(torch.autograd.grad((output * torch.randn_like(output)).sum(), inputs))


def leaves(layer: LoraMoeLinear, x: Tensor) -> list[Tensor]:
    return [x, layer.lora_A, layer.lora_B, layer.router.weight]


class GatedBlock(nn.Module):
    """gate/up/down as in a Llama feed-forward block."""

    def __init__(self, router: Router | None) -> None:
        super().__init__()
        torch.manual_seed(3)

        def adapted(d_in: int, d_out: int) -> LoraMoeLinear:
            base = nn.Linear(d_in, d_out, bias=False, dtype=torch.float64).requires_grad_(False)
            layer = LoraMoeLinear(base, num_experts=4, top_k=2, rank=3, alpha=16.0, router=router)
            nn.init.normal_(layer.lora_B)
            return layer

        self.gate_proj, self.up_proj = adapted(D_IN, 20), adapted(D_IN, 20)
        self.down_proj = adapted(20, D_IN)

    def forward(self, hidden_states: Tensor) -> Tensor:
        activated = functional.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        output: Tensor = self.down_proj(activated)
        return output


def make_block(*, shared: bool) -> GatedBlock:
    torch.manual_seed(1)
    if not shared:
        block = GatedBlock(None)
        for layer in (block.gate_proj, block.up_proj, block.down_proj):
            nn.init.normal_(layer.router.weight)
        return block
    router = Router(in_features=D_IN, num_experts=4, top_k=2, dtype=torch.float64)
    nn.init.normal_(router.weight)
    block = GatedBlock(router)
    router.attach(block)
    return block


def literal_block(block: GatedBlock, x: Tensor) -> Tensor:
    gate = literal(block.gate_proj, x, x)
    up = literal(block.up_proj, x, x)
    return literal(block.down_proj, functional.silu(gate) * up, x)
