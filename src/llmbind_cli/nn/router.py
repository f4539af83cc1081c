"""Router of a LoRA-MoE layer: which experts each token uses, and how strongly.

Implements ``G(x) = softmax(x W_g)`` of LLMBind (arXiv 2402.14891), Eq. 4-6. The paper leaves the
order of softmax and top-k open; here, as in MixLoRA (arXiv 2404.15159), the softmax is taken in
float32, the ``k`` largest gates are kept and scaled to sum to one.

Notation: ``T`` tokens, ``N`` experts, ``k`` experts kept per token, ``D`` input width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUTER_INIT_STD = 0.02


class Routing(NamedTuple):
    """Routing of the tokens of one block input.

    Attributes:
        logits: Router logits, float32 (float64 for a float64 model), [T, N], differentiable.
        gates: Gates computed from the logits, same dtype and shape, zero for experts that were
            not chosen. They carry no gradient: a layer that uses them sends its gradient to
            ``logits`` instead.
    """

    logits: Tensor
    gates: Tensor


def product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """Dtype of a product of activations with an adapter weight.

    Args:
        x: The activations.
        weight: The adapter weight, which may be kept in a wider dtype than the activations.

    Returns:
        The autocast dtype inside an autocast region, else the dtype of the weight.
    """
    device_type = x.device.type
    if torch.is_autocast_enabled(device_type) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return weight.dtype


def routing_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of logits and gates: float32, or float64 when the product itself is float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def top_k_gates(logits: Tensor, top_k: int) -> Tensor:
    """Softmax over the experts, reduced to the ``top_k`` largest and scaled to sum to one.

    Dividing the kept entries of a softmax by their sum is the same as a softmax over the kept
    logits alone, which is how it is computed.

    Args:
        logits: Router logits, float, [T, N].
        top_k: Experts to keep per token; 0 or N keeps all.

    Returns:
        Gates, same dtype and shape as ``logits``, each row summing to one.
    """
    if top_k in (0, logits.shape[-1]):
        return torch.softmax(logits.t(), dim=0).t()
    kept, experts = logits.topk(top_k, dim=-1)  # [T, k]
    # Over columns: a softmax along a row of two floats takes ten times as long on a CPU.
    return torch.zeros_like(logits).scatter_(-1, experts, torch.softmax(kept.t(), dim=0).t())


class RouterRecord:
    """Router logits of the forward passes made while a collection was open."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []

    def append(self, logits: Tensor) -> None:
        """Add the logits [..., N] of one router call."""
        self._logits.append(logits)

    def __len__(self) -> int:
        return len(self._logits)

    def probs(self) -> list[Tensor]:
        """Full softmax of every recorded call, in the order of the calls.

        The softmax is taken here rather than in the layer, so that a layer under gradient
        checkpointing saves the same tensors whether or not it is being recorded.

        Returns:
            One tensor per router call: probabilities over all experts before top-k, float32,
            [..., N] with the leading shape of that router's input, differentiable with respect
            to the router weight.
        """
        return [torch.softmax(logits, dim=-1) for logits in self._logits]


class Router(nn.Module):
    """Linear router without bias, ``x W_g``.

    A router belongs to one linear, or is shared by the linears of one block. In the second case
    :meth:`attach` makes the block compute the routing once, from the block's own input, before
    its linears run; they all use that routing, whatever their own input width (LLMBind does not
    say; MixLoRA, arXiv 2404.15159, routes once per feed-forward block).

    Args:
        in_features: Width ``D`` of the routed hidden states.
        num_experts: Number ``N`` of experts.
        top_k: Experts kept per token; 0 or ``num_experts`` means dense gating.
        device: Device of the weight.
        dtype: Dtype of the weight.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_experts: int,
        top_k: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1:
            raise ValueError(f"in_features must be ≥ 1, got {in_features}")
        if num_experts < 1:
            raise ValueError(f"num_experts must be ≥ 1, got {num_experts}")
        if not 0 <= top_k <= num_experts:
            raise ValueError(
                f"top_k must be between 0 (dense) and num_experts = {num_experts}, got {top_k}"
            )
        self.in_features = in_features
        self.num_experts = num_experts
        self.top_k = top_k
        self.weight = nn.Parameter(
            torch.empty(num_experts, in_features, device=device, dtype=dtype)
        )
        self.block_routing: Routing | None = None
        self.record: RouterRecord | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from N(0, 0.02²)."""
        nn.init.normal_(self.weight, std=ROUTER_INIT_STD)

    def route(self, x: Tensor) -> Routing:
        """Routing of the hidden states ``x`` [..., D], one row of N per token.

        Raises:
            ValueError: If the width of ``x`` is not that of this router.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"router of width {self.in_features} got hidden states of width {x.shape[-1]}: "
                "a router shared across widths must be attached to the block (Router.attach) and "
                "its linears be called inside that block"
            )
        dtype = product_dtype(x, self.weight)
        logits = functional.linear(x.to(dtype), self.weight.to(dtype)).to(routing_dtype(dtype))
        self.observe(logits)
        logits = logits.reshape(-1, self.num_experts)  # [T, N]
        return Routing(logits, top_k_gates(logits.detach(), self.top_k))

    def observe(self, logits: Tensor) -> None:
        """Add ``logits`` [..., N] to the open record, if there is one.

        Raises:
            RuntimeError: If a training router is recorded while gradients are off, as in the
                first pass of reentrant gradient checkpointing: a loss on such a record would
                silently leave the router untrained.
        """
        if self.record is None or torch._C._current_graph_task_id() != -1:
            return  # closed, or a recomputation inside a backward pass
        if self.training and self.weight.requires_grad and not torch.is_grad_enabled():
            raise RuntimeError(
                "router probabilities are being collected in training mode without gradients; use "
                "gradient checkpointing with use_reentrant=False, or model.eval() to observe only"
            )
        self.record.append(logits)

    def attach(self, block: nn.Module) -> None:
        """Compute the routing once per call of ``block``, from its first input.

        Args:
            block: Module whose first positional argument, or keyword ``hidden_states``, is the
                tensor [..., D] to route. Its linears must be called within its ``forward``.
        """
        block.register_forward_pre_hook(self._enter_block, with_kwargs=True)
        block.register_forward_hook(self._leave_block, always_call=True)

    def _enter_block(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block_routing = self.route(args[0] if args else kwargs["hidden_states"])

    def _leave_block(self, block: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self.block_routing = None


@contextmanager
def collect_router_probs(model: nn.Module) -> Iterator[RouterRecord]:
    """Record the router logits of every forward pass of ``model`` inside the ``with`` block.

    Works with gradient checkpointing (``use_reentrant=False``): a recomputation during the
    backward pass is not recorded a second time. Nothing stays attached to the model afterwards;
    the record, and the graph it holds, lives as long as the caller keeps it.

    Args:
        model: Module whose :class:`Router` submodules are to be recorded.

    Yields:
        The record; read it with :meth:`RouterRecord.probs`. A shared router adds one entry per
        call of its block, a router of its own one per call of its linear.
    """
    record = RouterRecord()
    routers = [module for module in model.modules() if isinstance(module, Router)]
    before = [router.record for router in routers]
    for router in routers:
        router.record = record
    try:
        yield record
    finally:
        for router, previous in zip(routers, before, strict=True):
            router.record = previous
