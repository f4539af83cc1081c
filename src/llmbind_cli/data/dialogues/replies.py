"""What the assistant says: a call between task tokens with a few words around it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from llmbind_cli.data.dialogues.grammar import finish, phrases
from llmbind_cli.data.spellings import ANY_SPELLING, TAGS


def call(task: str, prompt: str) -> str:
    """Return a prompt between the tokens of its task."""
    opening, closing = TAGS[task]
    return f"{opening} {prompt} {closing}"


def reply(rng: Random, calls: Sequence[tuple[str, str]]) -> str:
    """Write a reply that makes the calls in order.

    Args:
        rng: Source of every choice.
        calls: Task name and prompt of each.
    """
    bank = phrases()
    parts = []
    draw = rng.random()
    if draw < 0.52:
        specific = len(calls) == 1 and rng.random() < 0.22
        parts.append(bank.pick(rng, f"lead_{calls[0][0]}" if specific else "lead"))
    for index, (task, prompt) in enumerate(calls):
        if index and rng.random() < 0.4:
            parts.append(bank.pick(rng, "and_second"))
        parts.append(call(task, prompt))
    if 0.42 < draw < 0.64:
        parts.append(bank.pick(rng, "close"))
    return finish(" ".join(parts))


def without_task_tokens(text: str) -> str:
    """Take every task-token spelling out of a text that is to be plain.

    Again until none is left: what stands around a spelling may form another one.
    """
    while ANY_SPELLING.search(text):
        text = finish(ANY_SPELLING.sub("", text))
    return text
