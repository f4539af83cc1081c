"""What the model decides: requests in, replies parsed into task calls out; nothing is executed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import InputDataError, LlmbindError, TemporaryError, UnavailableError
from llmbind_cli.inference.artifacts import ResultLine
from llmbind_cli.inference.dispatch import item_seed
from llmbind_cli.inference.requests import Request
from llmbind_cli.inference.states import text_of_state
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import ChatTurn, EncodedChat, encode_chat
from llmbind_cli.model.decode import Reply, check_length, decode
from llmbind_cli.model.vision.sight import DETECT, SEGMENT
from llmbind_cli.tokens import (
    Payload,
    ReplyError,
    TaskCall,
    parse_reply,
    phrase_before,
    reply_text,
    require_whole_characters,
)

if TYPE_CHECKING:
    from PIL.Image import Image

_POINTING = frozenset({SEGMENT, DETECT})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The model's decision on one request.

    Attributes:
        request: The request.
        seed: The item's seed.
        reply: The reply's text with task tokens spelled out; ``None`` if there was none.
        ids: The reply's ids.
        calls: The task calls, in order; empty for plain talk. The prompt of a single token is the
            phrase that it is tied to.
        states: Position of a call in ``ids`` → hidden state of its single token, as text.
        error: Why there is no decision.
        seconds: This item's share of its batch's wall time.
    """

    request: Request
    seed: int
    reply: str | None = None
    ids: tuple[int, ...] = ()
    calls: tuple[TaskCall, ...] = ()
    states: Mapping[int, str] = field(default_factory=dict)
    error: LlmbindError | None = None
    seconds: float = 0.0

    def lines(self, model: str) -> list[ResultLine]:
        """Return one result line for each call, or one for plain talk or for the failure."""
        talk = TaskCall(task="text", prompt="", position=0)
        return [
            ResultLine(
                id=self.request.id,
                status="ok" if self.error is None else "failed",
                task=call.task,
                prompt=call.prompt,
                reply=self.reply,
                seed=self.seed if index == 0 else item_seed(self.seed, self.request.id, index),
                model=model,
                seconds=self.seconds / max(1, len(self.calls)),
                error=self.error,
                extra=self.request.extra,
            )
            for index, call in enumerate(self.calls or (talk,))
        ]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A request as the model reads it.

    Attributes:
        chat: The conversation as ids.
        opening: Ids that the reply is made to start with.
        tasks: What the reply may call; ``None`` for all tasks of the bundle.
        seed: The item's seed.
        images: The conversation's pictures in order, each as embeddings ``[K, D]``.
    """

    chat: EncodedChat
    opening: tuple[int, ...]
    tasks: frozenset[str] | None
    seed: int
    images: tuple[Tensor, ...]


class Planner:
    """Asks one model, in batches.

    Args:
        model: The bound model.
        max_new_tokens: Longest reply, in tokens.
        temperature: 0 takes the likeliest token.
        run_seed: Value of ``--seed``.
        batch_size: Requests decoded at once; halved when the device runs out of memory.
        on_token: Called with ``(row in the batch, id)`` as ids are emitted.
    """

    def __init__(
        self,
        model: BoundModel,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        run_seed: int = 0,
        batch_size: int = 32,
        on_token: Callable[[int, int], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be ≥ 1, got {batch_size}")
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._run_seed = run_seed
        self._batch_size = batch_size
        self._on_token = on_token

    def plan(self, requests: Sequence[Request]) -> Iterator[Plan]:
        """Yield one plan a request, in order, as batches finish.

        A request that cannot be answered gives a plan with an error; the others go on.
        """
        for start in range(0, len(requests), self._batch_size):
            yield from self._plan_batch(requests[start : start + self._batch_size])

    def _plan_batch(self, requests: Sequence[Request]) -> list[Plan]:
        started = time.monotonic()
        chats: dict[int, EncodedChat] = {}
        pictures: dict[int, list[Image]] = {}
        plans: dict[int, Plan] = {}
        seeds = [item_seed(self._run_seed, r.id) if r.seed is None else r.seed for r in requests]
        for index, request in enumerate(requests):
            try:
                _require_text(request)
                chat = self._encode(request)
                pictures[index] = self._read_pictures(request)
                chats[index] = chat
            except InputDataError as error:
                plans[index] = Plan(request=request, seed=seeds[index], error=error)
        seen = self._look_at([pictures[index] for index in chats])
        prompts = [
            Prompt(
                chat=chat,
                opening=self._opening(requests[index]),
                tasks=self._tasks(requests[index]),
                seed=seeds[index],
                images=images,
            )
            for (index, chat), images in zip(chats.items(), seen, strict=True)
        ]
        replies = self._answer(prompts)
        share = (time.monotonic() - started) / max(1, len(requests))
        for index, reply in zip(chats, replies, strict=True):
            plans[index] = self._decide(requests[index], seeds[index], reply, share)
        return [plans[index] for index in range(len(requests))]

    def _encode(self, request: Request) -> EncodedChat:
        """Encode a conversation.

        Raises:
            InputDataError: There is nothing to answer, nothing to cut out of, or no room for the
                reply.
        """
        if not request.prompt.strip():
            raise InputDataError(f"{request.id}: the prompt is empty")
        if request.modality == SEGMENT and not (request.images or request.earlier_images):
            raise InputDataError(f"{request.id}: there is no picture to segment; name one")
        chat = encode_chat(
            self._model.tokenizer,
            self._turns(request),
            self._model.token_table,
            add_generation_prompt=True,
            slot=self._model.image_slot,
        )
        check_length(self._model, chat.ids, self._max_new_tokens)
        return chat

    def _turns(self, request: Request) -> list[ChatTurn]:
        """Return the conversation; an instruction to cut out is put as the bundle learned it."""
        sight = self._model.sight
        if request.modality == SEGMENT and sight is not None:
            words = sight.config.segment_prompt.replace("{}", request.prompt)
            request = dataclasses.replace(request, prompt=words)
        return request.turns()

    def _read_pictures(self, request: Request) -> list[Image]:
        """Read all pictures of a conversation, for a model that sees."""
        if self._model.sight is None:
            return []
        return [read_picture(path) for path in (*request.earlier_images, *request.images)]

    def _look_at(self, pictures: Sequence[Sequence[Image]]) -> list[tuple[Tensor, ...]]:
        """Return the embeddings of the pictures of each request."""
        memory = self._model.pictures
        if memory is None:
            return [() for _ in pictures]
        seen = iter(memory.embeddings([picture for some in pictures for picture in some]))
        return [tuple(next(seen) for _ in some) for some in pictures]

    def _opening(self, request: Request) -> tuple[int, ...]:
        """Return the opening task token where the user fixed the modality."""
        table = self._model.token_table
        fixed = [t for t in table.tokens if t.task == request.modality]
        if request.modality is not None and not fixed:
            served = ", ".join(t.task for t in table.tokens)
            raise UnavailableError(f"this bundle has no {request.modality} token; it has: {served}")
        # Whether there is something to point at is for the model to say.
        pairs = [token for token in fixed if token.payload is not Payload.HIDDEN_STATE]
        return tuple(table.ids[token.open] for token in pairs)

    def _tasks(self, request: Request) -> frozenset[str] | None:
        """Return what a reply may call: whoever names a modality gets nothing else.

        To a first message without a picture there is nothing to point at.
        """
        if request.modality in _POINTING:
            return _POINTING
        if request.modality is not None:
            return frozenset({request.modality})
        if request.images or request.history:
            return None
        return frozenset(token.task for token in self._model.token_table.tokens) - _POINTING

    def _answer(self, prompts: Sequence[Prompt]) -> list[Reply | LlmbindError]:
        """Reply; halve the batch when memory runs out (fault 38), down to single requests."""
        try:
            return list(self._replies(prompts))
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                return [TemporaryError("the device ran out of memory on this request alone")]
            half = len(prompts) // 2
            torch.cuda.empty_cache()
            return self._answer(prompts[:half]) + self._answer(prompts[half:])

    def _replies(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Return what the model says to each."""
        return decode(
            self._model,
            [prompt.chat.ids for prompt in prompts],
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            seeds=[prompt.seed for prompt in prompts],
            openings=[prompt.opening for prompt in prompts],
            images=[prompt.images for prompt in prompts],
            tasks=[prompt.tasks for prompt in prompts],
            on_token=self._on_token,
        )

    def _decide(
        self, request: Request, seed: int, reply: Reply | LlmbindError, seconds: float
    ) -> Plan:
        if isinstance(reply, LlmbindError):
            return Plan(request=request, seed=seed, error=reply, seconds=seconds)
        tokenizer, table = self._model.tokenizer, self._model.token_table
        text = reply_text(reply.ids, tokenizer, table)
        error: LlmbindError | None = None
        calls: list[TaskCall] = []
        try:
            calls = [
                self._with_phrase(call, reply.ids, request.prompt)
                for call in parse_reply(reply.ids, tokenizer, table)
            ]
        except ReplyError as failure:
            error = failure
        return Plan(
            request=request,
            seed=seed,
            reply=text,
            ids=tuple(reply.ids),
            calls=tuple(calls),
            states={place: text_of_state(state) for place, state in reply.hidden_states.items()},
            error=error,
            seconds=seconds,
        )

    def _with_phrase(self, call: TaskCall, ids: Sequence[int], prompt: str) -> TaskCall:
        """Give a call without a prompt the words before it, or else those of the user."""
        if call.prompt:
            return call
        phrase = phrase_before(ids, call.position, self._model.tokenizer, self._model.token_table)
        return dataclasses.replace(call, prompt=phrase or prompt)


def _require_text(request: Request) -> None:
    """Refuse a request whose words no tokenizer can read.

    Raises:
        InputDataError: It holds half of a character.
    """
    for turn in request.turns():
        if isinstance(turn.content, str):
            require_whole_characters(turn.content, request.id)
