"""Muon (Jordan et al., kellerjordan.github.io/posts/muon), in a format that processors multiply.

`torch.optim.Muon` always makes its matrices orthogonal in bfloat16. A processor without products of
that format takes thirty times as long for them as for those of float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from llmbind_cli.nn.device import choose_dtype

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_SMALLEST = 1e-7


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, made orthogonal.

    Updates are scaled to the size of AdamW's (arXiv 2502.16982, Eq. 4).

    Args:
        matrices: What learns.
        lr: The learning rate.
        weight_decay: Apart from the gradient, as AdamW's.
        momentum: Share that is kept of the earlier gradients' mean.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move the matrices that have a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(matrix)
                mean = state["mean"]
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(mean, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values near 1 by a Newton–Schulz iteration.

    Args:
        matrix: [M, N].

    Returns:
        [M, N], singular values between about 0.7 and 1.2, in the format of the products.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.mT if tall else matrix).to(choose_dtype("auto", matrix.device))
    wide = wide / wide.norm().clamp(min=_SMALLEST)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), wide, beta=_A)
    return wide.mT if tall else wide
