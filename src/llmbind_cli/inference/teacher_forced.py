"""Replies that are given: what LISA and GLaMM report, beside masks of replies of its own.

The right answer with its ``seg`` tokens is put into the model's mouth, and the masks are decoded
from the states that predict those tokens. Such a score does not ask whether the model would have
said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch.nn.utils.rnn import pad_sequence

from llmbind_cli.errors import InputDataError
from llmbind_cli.inference.planner import Planner, Prompt
from llmbind_cli.inference.requests import Request
from llmbind_cli.model.chat_format import ChatTurn, EncodedChat, encode_chat, stop_ids
from llmbind_cli.model.decode import Reply, check_length
from llmbind_cli.model.prompt_reading import number_images
from llmbind_cli.tokens import Payload


class TeacherForcedPlanner(Planner):
    """Takes each request's own ``reply`` for what the model said.

    A request without one fails, and so does one without a picture.
    """

    def _encode(self, request: Request) -> EncodedChat:
        """Encode a conversation with its reply."""
        if not request.reply:
            raise InputDataError(f"{request.id}: has no reply to force")
        model = self._model
        if model.sight is None or not (request.images or request.earlier_images):
            raise InputDataError(f"{request.id}: has no picture to point at")
        chat = encode_chat(
            model.tokenizer,
            [*self._turns(request), ChatTurn(role="assistant", content=request.reply)],
            model.token_table,
            add_generation_prompt=False,
            slot=model.image_slot,
        )
        check_length(model, chat.ids, 0)
        return chat

    @torch.inference_mode()
    def _replies(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Run the model once over all conversations."""
        if not prompts:
            return []
        model, table = self._model, self._model.token_table
        numbered, rows = number_images([p.chat.ids for p in prompts], [p.images for p in prompts])
        # Ids after a conversation change nothing before them: no mask is needed.
        ids = pad_sequence([torch.tensor(one) for one in numbered], batch_first=True)
        embedded = model.embed(ids.to(model.device), rows)  # [B, T, D]
        states = model.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
        stops = stop_ids(model.tokenizer)
        replies = []
        for row, prompt in enumerate(prompts):
            start, stop = prompt.chat.reply_spans[-1]
            said = list(takewhile(lambda index: index not in stops, prompt.chat.ids[start:stop]))
            # The state at the id before a token is the one that predicts it, as in decoding.
            pointing = {
                place: states[row, start + place - 1]
                for place, index in enumerate(said)
                if (token := table.openers.get(index)) and token.payload is Payload.HIDDEN_STATE
            }
            replies.append(Reply(ids=said, finished=True, hidden_states=pointing))
        return replies
