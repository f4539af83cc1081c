"""Replies that are given: what LISA and GLaMM report, beside masks of replies of its own.

The right answer with its ``seg`` tokens is put into the model's mouth, and the masks are decoded
from the states that predict those tokens. Such a score does not ask whether the model would have
said so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import takewhile

import torch

from llmbind_cli.errors import InputDataError
from llmbind_cli.inference.dispatch import item_seed
from llmbind_cli.inference.planner import Plan, Planner
from llmbind_cli.inference.requests import Request
from llmbind_cli.model.chat_format import ChatTurn, encode_chat, stop_ids
from llmbind_cli.model.decode import Reply, check_length
from llmbind_cli.model.prompt_reading import number_images
from llmbind_cli.tokens import Payload


class TeacherForcedPlanner(Planner):
    """Takes each request's own ``reply`` for what the model said.

    A request without one fails.
    """

    def _plan_batch(self, requests: Sequence[Request]) -> list[Plan]:
        return [self._plan_given(request) for request in requests]

    def _plan_given(self, request: Request) -> Plan:
        started = time.monotonic()
        seed = item_seed(self._run_seed, request.id) if request.seed is None else request.seed
        try:
            reply = self._read(request)
        except InputDataError as error:
            return Plan(request=request, seed=seed, error=error)
        return self._decide(request, seed, reply, time.monotonic() - started)

    @torch.no_grad()
    def _read(self, request: Request) -> Reply:
        """Run the model once over a conversation with its reply."""
        if not request.reply:
            raise InputDataError(f"{request.id}: has no reply to force")
        model, table = self._model, self._model.token_table
        chat = encode_chat(
            model.tokenizer,
            [*self._turns(request), ChatTurn(role="assistant", content=request.reply)],
            table,
            add_generation_prompt=False,
            slot=model.image_slot,
        )
        check_length(model, chat.ids, 0)
        start, stop = chat.reply_spans[-1]
        stops = stop_ids(model.tokenizer)
        said = list(takewhile(lambda index: index not in stops, chat.ids[start:stop]))
        (images,) = self._look_at([self._read_pictures(request)])
        if not images:
            raise InputDataError(f"{request.id}: has no picture to point at")
        (ids,), rows = number_images([chat.ids], [images])
        embedded = model.embed(torch.tensor([ids], device=model.device), rows)
        states = model.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
        # The state at the id before a token is the one that predicts it, as in decoding.
        pointing = {
            place: states[start + place - 1]
            for place, index in enumerate(said)
            if (token := table.openers.get(index)) and token.payload is Payload.HIDDEN_STATE
        }
        return Reply(ids=said, finished=True, hidden_states=pointing)
