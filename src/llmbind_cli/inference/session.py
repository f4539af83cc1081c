"""A conversation: turns, attached pictures, and the model that answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from llmbind_cli.inference.planner import Plan, Planner
from llmbind_cli.inference.requests import Request
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import ChatTurn
from llmbind_cli.tokens import reply_text
from llmbind_cli.weights.atomic import write_atomically

_SPEAKER = {"user": "human", "assistant": "gpt"}


class Session:
    """One conversation with one model.

    Args:
        model: The bound model.
        max_new_tokens: Longest reply, in tokens.
        temperature: 0 takes the likeliest token.
        seed: Seed of the conversation; each turn gets its own from it.
    """

    def __init__(
        self, model: BoundModel, *, max_new_tokens: int, temperature: float, seed: int
    ) -> None:
        self.model = model
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._seed = seed
        self._turns: list[ChatTurn] = []
        self._images: list[Path] = []

    def attach(self, image: Path) -> None:
        """Attach a picture to the next message."""
        self._images.append(image)

    def reset(self) -> None:
        """Forget all turns and pictures."""
        self._turns.clear()
        self._images.clear()

    def ask(self, prompt: str, *, on_token: Callable[[int], None] | None = None) -> Plan:
        """Answer a message; the exchange joins the conversation unless it failed.

        Args:
            prompt: The user's words.
            on_token: Called with each id of the reply as it is emitted.
        """
        request = Request(
            id=f"turn-{len(self._turns) // 2 + 1}",
            prompt=prompt,
            history=tuple(self._turns),
            images=tuple(self._images),
        )
        planner = Planner(
            self.model,
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            run_seed=self._seed,
            on_token=None if on_token is None else lambda _row, index: on_token(index),
        )
        (plan,) = planner.plan([request])
        if plan.error is None:
            self._turns += [request.turns()[-1], ChatTurn(role="assistant", content=plan.ids)]
            self._images.clear()
        return plan

    def save(self, path: Path) -> None:
        """Write the conversation as one dialogue in the LLaVA shape.

        Raises:
            OutputError: The file cannot be written.
        """
        record = {"id": path.stem, "conversations": [self._spoken(turn) for turn in self._turns]}
        text = json.dumps(record, ensure_ascii=False) + "\n"
        write_atomically(path, lambda stream: stream.write(text.encode()))

    def _spoken(self, turn: ChatTurn) -> dict[str, str]:
        content = turn.content
        if not isinstance(content, str):
            content = reply_text(content, self.model.tokenizer, self.model.token_table)
        return {"from": _SPEAKER[turn.role], "value": content}
