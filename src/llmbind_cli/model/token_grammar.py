"""Which task token may follow which, as one table look-up a decoding step.

A reply is outside every pair (state 0) or inside one (state ``k`` for the ``k``-th pair). Outside,
closing tokens are ruled out. Inside, the only task token allowed is the one that closes the pair:
what probability the model gives to ending in any other way (another closing token, the end of the
turn) goes to that token. The choice of the task itself stays the model's, among those that the
request allows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from llmbind_cli.tokens import TokenTable


class TokenGrammar:
    """A finite-state mask over the task tokens.

    Args:
        table: The bundle's token table.
        stop_ids: Ids that end the turn.
    """

    def __init__(self, table: TokenTable, stop_ids: frozenset[int]) -> None:
        pairs = [t for t in table.tokens if t.close is not None]
        self.stop_ids = stop_ids
        self._task_of = {table.ids[t.open]: t.task for t in table.tokens}
        self._ids = torch.tensor([*table.ids.values(), *sorted(stop_ids)], dtype=torch.long)
        columns = {int(index): column for column, index in enumerate(self._ids)}
        size = len(self._ids)
        self._allowed = torch.ones(len(pairs) + 1, size, dtype=torch.bool)
        self._endings = torch.zeros(len(pairs) + 1, size, dtype=torch.bool)
        self._closer = torch.zeros(len(pairs) + 1, dtype=torch.long)
        self._next = torch.arange(len(pairs) + 1)[:, None].repeat(1, size)
        closers = [columns[table.ids[t.close]] for t in pairs if t.close is not None]
        stops = [columns[index] for index in stop_ids]
        self._allowed[0, closers] = False
        for state, (token, closer) in enumerate(zip(pairs, closers, strict=True), 1):
            self._allowed[state] = False
            self._allowed[state, closer] = True
            self._endings[state, closers + stops] = True
            self._closer[state] = closer
            self._next[0, columns[table.ids[token.open]]] = state
            self._next[state, closer] = 0

    def start(self, openings: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """Return the states, int64 ``[B]``, of replies that begin with the ``B`` openings."""
        for name in ("_ids", "_allowed", "_endings", "_closer", "_next"):
            setattr(self, name, getattr(self, name).to(device))
        states = torch.zeros(len(openings), dtype=torch.long, device=device)
        for row, opening in enumerate(openings):
            for index in opening:
                chosen = torch.tensor([index], device=device)
                states[row : row + 1] = self.next_states(states[row : row + 1], chosen)
        return states

    def barred(self, tasks: Sequence[Collection[str] | None], device: torch.device) -> Tensor:
        """Return which task tokens each of ``B`` replies may not have, bool ``[B, K]``.

        Args:
            tasks: Tasks that each reply may call; ``None`` for all of them.
            device: Where to put it.
        """
        called = [self._task_of.get(index) for index in self._ids.tolist()]
        rows = [
            [allowed is not None and task is not None and task not in allowed for task in called]
            for allowed in tasks
        ]
        return torch.tensor(rows, dtype=torch.bool, device=device)

    def constrain(self, logits: Tensor, states: Tensor, barred: Tensor | None = None) -> Tensor:
        """Rule out what the grammar forbids.

        Args:
            logits: ``[B, V]`` fp32.
            states: ``[B]`` int64.
            barred: Task tokens that are ruled out besides, ``[B, K]`` as of :meth:`barred`.

        Returns:
            Logits ``[B, V]`` of the allowed ids; forbidden ones are −inf.
        """
        special = logits[:, self._ids]  # [B, K]
        ending = special.masked_fill(~self._endings[states], float("-inf"))
        total = ending.logsumexp(dim=-1, keepdim=True)  # [B, 1]
        closing = (
            torch.arange(len(self._ids), device=logits.device) == self._closer[states][:, None]
        )
        inside = (states > 0)[:, None]
        special = torch.where(closing & inside, total, special)
        special = special.masked_fill(~self._allowed[states], float("-inf"))
        if barred is not None:
            special = special.masked_fill(barred, float("-inf"))
        return logits.index_copy(1, self._ids, special)

    def next_states(self, states: Tensor, chosen: Tensor) -> Tensor:
        """Return the states ``[B]`` after the ids ``chosen`` ``[B]``."""
        match = chosen[:, None] == self._ids  # [B, K]
        moved = self._next[states].gather(1, match.int().argmax(dim=1, keepdim=True)).squeeze(1)
        return torch.where(match.any(dim=1), moved, states)
