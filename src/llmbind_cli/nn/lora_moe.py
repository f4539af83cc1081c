"""Low-rank mixture of experts beside a frozen linear layer (LoRA-MoE).

Implements LLMBind (arXiv 2402.14891), Eq. 3-6:

    o = W0 x + (α/r) Σ_i G(x)_i B_i A_i x,    G(x) = softmax(x W_g), top-k, scaled to sum to one

All experts are one product. With ``A`` = [A_1; …; A_N] and ``B`` = [B_1 … B_N] stacked,
``Σ_i g_i B_i A_i x = B · ((g ⊗ 1_r) ⊙ (A x))``: a LoRA of rank ``N r`` plus ``N r``
multiplications per token. Experts that top-k leaves out have gate zero; nothing is dispatched.

Notation: ``T`` tokens, ``N`` experts, ``r`` rank of one expert, ``R = N r``, ``Di`` and ``Do``
input and output width, ``g`` gates [T, N], ``h`` gated expert activations [T, R].
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from llmbind_cli.errors import UsageError
from llmbind_cli.nn.router import Router, Routing, product_dtype, routing_dtype, top_k_gates

# Up to this many tokens, copying router and experts into one matrix costs more than one GEMM saves.
STACK_FROM_TOKENS = 8


class _Mixture(NamedTuple):
    """What one evaluation of the low-rank path leaves behind.

    Attributes:
        product: ``h``, with ``g`` in N more columns if the router is the linear's own,
            [T, R] or [T, R + N].
        gates: ``g`` in the dtype of the product, [T, N]; a view of ``product`` in that case.
        logits: Logits of the linear's own router, [T, N]; None if the gates were given.
    """

    product: Tensor
    gates: Tensor
    logits: Tensor | None


def _stack(down: Tensor, router_weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Down projections, with the linear's own router below them, [R, Di] or [R + N, Di]."""
    if router_weight is None:
        return down.to(dtype)
    return torch.cat((down, router_weight)).to(dtype)


def _by_expert(activations: Tensor, num_experts: int) -> Tensor:
    """View of [T, R] as [T, N, r]."""
    num_tokens, rank_total = activations.shape
    return activations.view(num_tokens, num_experts, rank_total // num_experts)


def _add_product(total: Tensor, left: Tensor, right: Tensor, scaling: float = 1.0) -> Tensor:
    """Add ``scaling · left right`` to ``total`` in place, whichever dtype that has."""
    if total.dtype == left.dtype:
        return total.addmm_(left, right, alpha=scaling)
    return total.add_(left @ right, alpha=scaling)


def _mix_in_place(
    output: Tensor,
    x: Tensor,
    *,
    down: Tensor,
    up: Tensor,
    router_weight: Tensor | None,
    block_gates: Tensor | None,
    top_k: int,
    scaling: float,
    dtype: torch.dtype,
) -> _Mixture:
    """Add the low-rank path to ``output`` [T, Do] in place, whichever dtype that has.

    Args:
        output: What the base layer gave.
        x: Its input, [T, Di].
        down: ``A``, [R, Di].
        up: ``B``, [Do, R].
        router_weight: Weight of the linear's own router, [N, Di], unless ``block_gates`` are given.
        block_gates: Gates computed elsewhere, [T, N].
        top_k: Experts kept per token by the linear's own router.
        scaling: α/r.
        dtype: Dtype of the products.
    """
    logits = None
    product = functional.linear(x.to(dtype), _stack(down, router_weight, dtype))
    if block_gates is None:
        rank_total = down.shape[0]
        activations, router_columns = product[:, :rank_total], product[:, rank_total:]
        logits = router_columns.to(routing_dtype(dtype), copy=True)
        gates = router_columns.copy_(top_k_gates(logits, top_k))
    else:
        activations, gates = product, block_gates.to(dtype)
    _by_expert(activations, gates.shape[1]).mul_(gates.unsqueeze(-1))
    _add_product(output, activations, up.to(dtype).t(), scaling)
    return _Mixture(product, gates, logits)


class _LowRankMixture(torch.autograd.Function):
    """Differentiable :func:`_mix_in_place`; returns the output and the own router's logits.

    Saves, beside ``x`` and parameters, ``h`` and ``g`` alone: R + N floats per token. The
    activations before gating are not needed, since for a softmax over the kept logits

        dlogit_i = g_i (dg_i - Σ_j dg_j g_j)   and   g_i dg_i = Σ_{c in expert i} dh_c h_c.

    A routing made elsewhere gets this gradient through its logits, summed over its users.

    Where the weight of a frozen base layer is given, the gradient through the base layer is taken
    here as well: both parts of ``dx`` then accumulate in one [T, Di] instead of two and a sum.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd functions take their inputs by position
        ctx: Any,
        output: Tensor,
        x: Tensor,
        base_weight: Tensor | None,
        down: Tensor,
        up: Tensor,
        router_weight: Tensor | None,
        block_logits: Tensor | None,  # unread: the routing's gradient goes there
        block_gates: Tensor | None,
        top_k: int,
        scaling: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor | None]:
        mixture = _mix_in_place(
            output,
            x,
            down=down,
            up=up,
            router_weight=router_weight,
            block_gates=block_gates,
            top_k=top_k,
            scaling=scaling,
            dtype=dtype,
        )
        given_gates = None if block_gates is None else mixture.gates
        ctx.save_for_backward(x, base_weight, mixture.product, given_gates, down, up, router_weight)
        ctx.scaling = scaling
        ctx.mark_dirty(output)
        return output, mixture.logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor, d_logits: Tensor | None) -> tuple[Tensor | None, ...]:
        x, base_weight, product, given_gates, down, up, router_weight = ctx.saved_tensors
        rank_total, dtype = down.shape[0], product.dtype
        activations = product[:, :rank_total]
        gates = product[:, rank_total:] if given_gates is None else given_gates
        num_experts = gates.shape[1]
        _, needs_x, _, needs_down, needs_up, needs_router = ctx.needs_input_grad[:6]
        d_x = d_down = d_up = d_router = None
        with torch.autocast(x.device.type, enabled=False):
            d_out = d_output.to(dtype)
            d_product = torch.empty_like(product)
            d_activations = d_product[:, :rank_total]
            torch.mm(d_out, up.to(dtype) * ctx.scaling, out=d_activations)
            if needs_up:
                d_up = (activations.T @ d_out).mul_(ctx.scaling).T.to(up.dtype)
            gate_terms = _by_expert(d_activations * activations, num_experts)  # [T, N, r]
            gate_terms = gate_terms.sum(-1, dtype=routing_dtype(dtype))  # g_i dg_i, [T, N]
            d_routing = gate_terms - gates * gate_terms.sum(-1, keepdim=True)
            _by_expert(d_activations, num_experts).mul_(gates.unsqueeze(-1))
            if d_logits is not None:
                d_product[:, rank_total:] = d_routing.add_(d_logits)
            if needs_down or needs_router:
                d_stack = d_product.T @ x.to(dtype)  # [R (+ N), Di]
                d_down = d_stack[:rank_total].to(down.dtype)
                if router_weight is not None:
                    d_router = d_stack[rank_total:].to(router_weight.dtype)
            if needs_x:
                stack = _stack(down, router_weight, dtype)
                if base_weight is None:
                    d_x = (d_product @ stack).to(x.dtype)
                else:
                    d_x = _add_product(d_output @ base_weight, d_product, stack)
        d_block_logits = None if given_gates is None else d_routing
        d_inputs = (d_output, d_x, None, d_down, d_up, d_router, d_block_logits)
        return *d_inputs, None, None, None, None


class LoraMoeLinear(nn.Module):
    """A frozen linear layer with a low-rank mixture of experts beside it.

    The adapter weights stand in float32 (float64 beside a float64 layer), on the device of the
    base weight. Products run in the autocast dtype inside an autocast region, else in the dtype
    of the adapter weights; the result always has the dtype of the base layer's output. The base
    layer is called with the tokens flattened to [T, Di], and its output is added to in place. It
    may be a quantised or otherwise changed subclass of ``nn.Linear``; the weight of a plain frozen
    one is also read, to take the gradient through it.

    Args:
        base_layer: The layer ``W0``. It is used as it is: freezing it is the caller's business.
        num_experts: Number ``N`` of experts. One expert equals plain LoRA.
        top_k: Experts kept per token; 0 or ``num_experts`` means dense gating.
        rank: Rank ``r`` of one expert.
        alpha: α; the low-rank path is scaled by α/r.
        router: A router that several linears share; None for one of this linear's own. Outside
            the block it is attached to, it routes this linear's own input.
        dropout: Probability in [0, 1) of dropping an input feature of the low-rank path during
            training. The router sees the features as they are.

    Raises:
        ValueError: If an argument is outside its range, or ``router`` was made for another
            number of experts or another ``top_k``.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        *,
        num_experts: int,
        top_k: int,
        rank: int,
        alpha: float,
        router: Router | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be ≥ 1, got {rank}")
        if not alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.num_experts, self.top_k = num_experts, top_k
        self.rank, self.alpha = rank, alpha
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.is_bypassed = False
        self.base_layer = base_layer
        device = base_layer.weight.device
        dtype = routing_dtype(base_layer.weight.dtype)
        self.router_is_shared = router is not None
        if router is None:
            router = Router(
                in_features=self.in_features,
                num_experts=num_experts,
                top_k=top_k,
                device=device,
                dtype=dtype,
            )
        elif (router.num_experts, router.top_k) != (num_experts, top_k):
            raise ValueError(
                f"router was made for num_experts = {router.num_experts}, top_k = {router.top_k}, "
                f"but the layer has num_experts = {num_experts}, top_k = {top_k}"
            )
        self.router = router
        rank_total = num_experts * rank
        self.lora_A = nn.Parameter(
            torch.empty(rank_total, self.in_features, device=device, dtype=dtype)
        )
        self.lora_B = nn.Parameter(
            torch.empty(self.out_features, rank_total, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw ``lora_A`` Kaiming-uniform (a = √5, fan-in Di) and set ``lora_B`` to zero."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """Base layer plus gated experts.

        Args:
            x: Input, float, [..., Di].

        Returns:
            [..., Do] in the dtype that the base layer gives.
        """
        if self.is_bypassed:
            bare: Tensor = self.base_layer(x)
            return bare
        leading_shape = x.shape[:-1]
        x = x.reshape(-1, self.in_features)  # [T, Di]
        dtype = product_dtype(x, self.lora_A)
        base_weight = self._frozen_weight(x) if torch.is_grad_enabled() else None
        if base_weight is None:
            output: Tensor = self.base_layer(x)  # [T, Do]
        else:
            with torch.no_grad():
                output = self.base_layer(x)
        routing = self._routing_made_elsewhere(x, leading_shape)
        router_weight = self.router.weight if routing is None else None
        block_logits, block_gates = (None, None) if routing is None else routing
        if self.training and self.dropout.p > 0.0:
            x = self.dropout(x)
        if torch.is_grad_enabled():
            output, logits = _LowRankMixture.apply(  # type: ignore[no-untyped-call]
                output,
                x,
                base_weight,
                self.lora_A,
                self.lora_B,
                router_weight,
                block_logits,
                block_gates,
                self.top_k,
                self.scaling,
                dtype,
            )
        else:
            logits = _mix_in_place(
                output,
                x,
                down=self.lora_A,
                up=self.lora_B,
                router_weight=router_weight,
                block_gates=block_gates,
                top_k=self.top_k,
                scaling=self.scaling,
                dtype=dtype,
            ).logits
        if logits is not None:
            self.router.observe(logits.view(*leading_shape, self.num_experts))
        return output.view(*leading_shape, self.out_features)

    def _frozen_weight(self, x: Tensor) -> Tensor | None:
        """The base weight, if its transpose is all there is to the base layer's gradient.

        That is so for a plain frozen ``nn.Linear`` in the dtype of ``x``. Anything else, such as a
        quantised or sharded weight, hooks, or dropout between the two paths, answers None.
        """
        base = self.base_layer
        if type(base) is not nn.Linear or type(base.weight) is not nn.Parameter:
            return None
        weight = base.weight
        is_trained = any(parameter.requires_grad for parameter in base.parameters())
        has_hooks = (
            base._forward_pre_hooks
            or base._forward_hooks
            or base._backward_pre_hooks
            or base._backward_hooks
        )
        is_cast = x.dtype != weight.dtype or (
            torch.is_autocast_enabled(x.device.type) and product_dtype(x, weight) != x.dtype
        )
        has_dropout = self.training and self.dropout.p > 0.0
        return None if is_trained or has_hooks or is_cast or has_dropout else weight

    def _routing_made_elsewhere(self, x: Tensor, leading_shape: torch.Size) -> Routing | None:
        """The block's routing, or one of the input before dropout; None to route in the GEMM."""
        if self.router_is_shared and self.router.block_routing is not None:
            return self.router.block_routing
        is_decoding = x.shape[0] <= STACK_FROM_TOKENS and not torch.is_grad_enabled()
        if self.router_is_shared or is_decoding or (self.training and self.dropout.p > 0.0):
            return self.router.route(x.view(*leading_shape, self.in_features))
        return None

    def merge(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse to merge the experts into ``W0``, as plain LoRA could.

        Raises:
            UsageError: Always: the gates depend on the token, so no one matrix equals this layer.
        """
        raise UsageError(
            "a LoRA-MoE layer cannot be merged into its base layer, because its gates depend on "
            "the token; keep the adapter beside the base model"
        )

    def extra_repr(self) -> str:
        """Hyperparameters for ``repr``."""
        return (
            f"num_experts={self.num_experts}, top_k={self.top_k}, rank={self.rank}, "
            f"alpha={self.alpha}"
        )
