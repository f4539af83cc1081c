"""The hidden state of a semantic-embedding token → the prompt of the mask decoder.

Linear, ReLU, Linear, as LISA projects its ``[SEG]`` state (arXiv 2308.00692, section 3.2;
dvlab-research/LISA 3cb2d43, ``text_hidden_fcs``) and LLMBind its ``seg`` token
(arXiv 2402.14891, section 3.2).

Notation: ``M`` tokens, ``D`` width of the LLM, ``P`` width of the prompt.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PromptProjection(nn.Module):
    """A two-layer perceptron.

    Args:
        hidden_size: ``D``, ≥ 1.
        prompt_width: ``P``, ≥ 1.

    Raises:
        ValueError: One of the two is < 1.
    """

    def __init__(self, *, hidden_size: int, prompt_width: int) -> None:
        super().__init__()
        if hidden_size < 1 or prompt_width < 1:
            raise ValueError(
                f"hidden_size and prompt_width must be ≥ 1, got {hidden_size} and {prompt_width}"
            )
        self.linear_1 = nn.Linear(hidden_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, prompt_width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[M, D] → [M, P]."""
        prompts: Tensor = self.linear_2(functional.relu(self.linear_1(hidden_states)))
        return prompts
