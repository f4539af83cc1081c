"""Batched decoding with a KV cache, a token grammar and captured hidden states.

What one row gets does not depend on the other rows but for rounding: prompts are laid out so that
sums keep their order (:mod:`llmbind_cli.model.prompt_reading`), and ids are chosen greedily, or
sampled with uniform numbers drawn from the row's own seed. Kernels may choose another order for
another number of rows, so in bfloat16 a near tie of two ids can fall otherwise in another batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmbind_cli.errors import InputDataError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import stop_ids
from llmbind_cli.model.payload_loops import PayloadLoops
from llmbind_cli.model.prompt_reading import (
    number_images,
    read_prompt,
    read_prompts,
    reads_together,
    width_with_gap,
)
from llmbind_cli.model.token_grammar import TokenGrammar
from llmbind_cli.tokens import Payload


@dataclass(kw_only=True)
class Reply:
    """What the model answered to one prompt.

    Attributes:
        ids: The emitted ids without the end of turn.
        finished: False when ``max_new_tokens`` cut the reply.
        hidden_states: Position in ``ids`` of each semantic token → the hidden state ``[D]`` of
            the step that emitted it (LLMBind section 3.2; LISA takes the same position).
    """

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    hidden_states: dict[int, Tensor] = field(default_factory=dict)


def check_length(model: BoundModel, prompt: Sequence[int], max_new_tokens: int) -> None:
    """Refuse a prompt that leaves no room for the reply (never truncate it).

    Raises:
        InputDataError: ``len(prompt) + max_new_tokens`` exceeds the context length (fault 10).
    """
    room = model.max_positions - max_new_tokens
    if len(prompt) > room:
        raise InputDataError(
            f"the conversation has {len(prompt)} tokens; this model reads at most {room} "
            f"beside a reply of {max_new_tokens}: shorten it"
        )


@torch.inference_mode()
def decode(
    model: BoundModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    openings: Sequence[Sequence[int]] | None = None,
    images: Sequence[Sequence[Tensor]] | None = None,
    tasks: Sequence[Collection[str] | None] | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[Reply]:
    """Answer a batch of prompts.

    Args:
        model: The bound model.
        prompts: ``B`` encoded conversations that end with the opening of an assistant turn.
        max_new_tokens: Most ids emitted a row.
        temperature: 0 takes the likeliest id; above 0 samples.
        seeds: One seed a row, for sampling.
        openings: Ids a row that its reply is made to start with, for example an opening task
            token; they count towards the reply.
        images: The pictures of each prompt in order, each as embeddings ``[K, D]``; they take the
            places of ``IMAGE_ID``. Prompts on one picture should name one tensor: what they begin
            with is then read once.
        tasks: What each reply may call; ``None`` for all tasks of the bundle.
        on_token: Called with ``(row, id)`` for each emitted id, the end of turn left out.

    Returns:
        One reply a prompt, in order.

    Raises:
        InputDataError: A prompt is longer than the context allows.
    """
    for prompt in prompts:
        check_length(model, prompt, max_new_tokens)
    if not prompts:
        return []
    table = None
    if images is not None and any(images):
        prompts, table = number_images(prompts, images)
    openings = openings or [()] * len(prompts)
    seeds = seeds or [0] * len(prompts)
    tasks = tasks or [None] * len(prompts)
    longest = max(len(prompt) + len(start) for prompt, start in zip(prompts, openings, strict=True))
    together = reads_together(model, width_with_gap(longest) + max_new_tokens)
    everything = range(len(prompts))
    replies: list[Reply] = []
    for rows in [everything] if together else [[row] for row in everything]:
        run = _DecodingRun(
            model,
            [prompts[row] for row in rows],
            openings=[openings[row] for row in rows],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=[seeds[row] for row in rows],
            tasks=[tasks[row] for row in rows],
            together=together,
            image_table=table,
        )
        for step in range(max_new_tokens):
            for row, index in run.advance(step):
                if on_token is not None:
                    on_token(rows[row], index)
            if not run.rows:
                break
        replies += run.replies
    return replies


class _DecodingRun:
    """The state of one batch: caches and masks of the rows that are still open."""

    def __init__(
        self,
        model: BoundModel,
        prompts: Sequence[Sequence[int]],
        *,
        openings: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        tasks: Sequence[Collection[str] | None],
        together: bool,
        image_table: Tensor | None = None,
    ) -> None:
        self.model = model
        self.replies = [Reply(ids=list(opening)) for opening in openings]
        self.rows = list(range(len(prompts)))
        self.grammar = TokenGrammar(model.token_table, stop_ids(model.tokenizer))
        self.states = self.grammar.start(openings, model.device)
        self.barred = self.grammar.barred(tasks, model.device)
        self.loops = PayloadLoops(len(prompts), model.device)
        self.semantic_ids = {
            index
            for index, token in model.token_table.openers.items()
            if token.payload is Payload.HIDDEN_STATE
        }
        self.temperature = temperature
        self.uniform = _uniform(seeds, max_new_tokens, model.device)
        contexts = [[*prompt, *opening] for prompt, opening in zip(prompts, openings, strict=True)]
        read = (
            read_prompts(model, contexts, image_table)
            if together
            else read_prompt(model, contexts[0], image_table)
        )
        self.cache, self.first = read.cache, read.hidden_states
        self.attention_mask = read.attention_mask  # [B, W + emitted]
        self.positions = read.positions  # [B], of the id that comes next
        self.input_ids = torch.empty(0)  # [B, 1] after the first step

    def advance(self, step: int) -> list[tuple[int, int]]:
        """Emit one id for each open row; return ``(row, id)`` of those that go on."""
        hidden = self.first if step == 0 else self._forward()  # [B, D]
        logits = self.model.output_head(hidden).float()  # [B, V]
        logits = self.grammar.constrain(logits, self.states, self.barred)
        chosen = self._choose(self.loops.constrain(logits), step)  # [B]
        before, self.states = self.states, self.grammar.next_states(self.states, chosen)
        self.loops.follow(chosen, before, self.states)
        emitted, keep = [], []
        for place, (row, index) in enumerate(zip(self.rows, chosen.tolist(), strict=True)):
            reply = self.replies[row]
            if index in self.grammar.stop_ids:
                reply.finished = True
                continue
            if index in self.semantic_ids:
                reply.hidden_states[len(reply.ids)] = hidden[place].clone()
            reply.ids.append(index)
            emitted.append((row, index))
            keep.append(place)
        self._narrow(keep, chosen)
        return emitted

    def _forward(self) -> Tensor:
        output = self.model.decoder(
            input_ids=self.input_ids,
            attention_mask=self.attention_mask,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions += 1
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def _choose(self, logits: Tensor, step: int) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        cumulative = (logits / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        threshold = self.uniform[self.rows, step, None] * cumulative[:, -1:]
        return (cumulative > threshold).int().argmax(dim=-1)  # inverse transform sampling

    def _narrow(self, keep: list[int], chosen: Tensor) -> None:
        """Drop rows that ended, so that the last open ones do not pay for them."""
        self.input_ids = chosen[:, None]
        if len(keep) < len(self.rows):
            index = torch.tensor(keep, dtype=torch.long, device=chosen.device)
            self.rows = [self.rows[place] for place in keep]
            self.input_ids, self.states = self.input_ids[index], self.states[index]
            self.barred = self.barred[index]
            self.loops.keep(index)
            self.attention_mask = self.attention_mask[index]
            self.positions = self.positions[index]
            if keep:
                self.cache.batch_select_indices(index)
        ones = self.attention_mask.new_ones((len(self.rows), 1))
        self.attention_mask = torch.cat([self.attention_mask, ones], dim=1)


def _uniform(seeds: Sequence[int], steps: int, device: torch.device) -> Tensor:
    """Return numbers in [0, 1), ``[B, steps]``, row ``b`` from ``seeds[b]`` alone."""
    drawn = [torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(device)
