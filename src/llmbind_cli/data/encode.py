"""Dialogues as token ids with a loss weight for each id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmbind_cli.data.sample import Dialogue, Sample
from llmbind_cli.model.chat_format import ChatTurn, ImageSlot, encode_chat
from llmbind_cli.tokens import TASK_TOKENS, TokenTable

REPLY_KINDS = ("text", *(token.task for token in TASK_TOKENS))
"""What a reply is: plain text, or a call of a task; named by the first call that it makes."""


@dataclass(frozen=True, kw_only=True)
class EncodedSample:
    """One dialogue, ready to be batched.

    Attributes:
        ids: ``T`` token ids.
        loss_weights: ``T`` weights; 0 outside assistant turns.
        reply_kinds: ``T`` indices into ``REPLY_KINDS``; 0 outside assistant turns as well.
        tasks: The tasks that its replies call; empty for plain talk.
        sample: The pictures and masks that the ids speak of; ``None`` for words alone.
        pointing: Positions in ``ids`` of the segmentation tokens of the replies, in order.
    """

    ids: list[int]
    loss_weights: list[float]
    reply_kinds: list[int]
    tasks: tuple[str, ...]
    sample: Sample | None = None
    pointing: tuple[int, ...] = ()


def encode_dialogue(
    dialogue: Dialogue,
    tokenizer: Any,
    table: TokenTable,
    *,
    decision_weight: float,
    slot: ImageSlot | None = None,
) -> EncodedSample:
    """Encode a dialogue with the loss on assistant spans only.

    Args:
        dialogue: Turns in canonical tag spelling.
        tokenizer: The bundle's tokenizer.
        table: The bundle's token table.
        decision_weight: Weight of the ids where the task is decided: the first id of each reply
            and each opening task token. All other reply ids weigh 1.
        slot: What a picture takes up, for a model that sees.
    """
    sample = dialogue if slot is not None and isinstance(dialogue, Sample) else None
    num_images = int(dialogue.image is not None) if sample is None else len(sample.pictures)
    turns = [
        ChatTurn(
            role=turn.role,
            content=turn.text,
            num_images=num_images if index == 0 else 0,
        )
        for index, turn in enumerate(dialogue.turns)
    ]
    if sample is None:
        slot = None  # a picture that is not there is told of in words
    chat = encode_chat(tokenizer, turns, table, add_generation_prompt=False, slot=slot)
    weights = [0.0] * len(chat.ids)
    kinds = [0] * len(chat.ids)
    tasks: list[str] = []
    pointing: list[int] = []
    replies = [turn for turn in dialogue.turns if turn.role == "assistant"]
    for turn, (start, stop) in zip(replies, chat.reply_spans, strict=True):
        learned = stop - start if turn.complete else stop - start - 1
        weights[start : start + learned] = [1.0] * learned
        weights[start] = decision_weight
        called = []
        for position in range(start, stop):
            token = table.openers.get(chat.ids[position])
            if token is not None:
                weights[position] = decision_weight
                called.append(token.task)
                if token.task == "segment":
                    pointing.append(position)
        if called:
            kinds[start:stop] = [REPLY_KINDS.index(called[0])] * (stop - start)
        tasks += called
    return EncodedSample(
        ids=chat.ids,
        loss_weights=weights,
        reply_kinds=kinds,
        tasks=tuple(tasks),
        sample=sample,
        pointing=tuple(pointing) if sample is not None else (),
    )
