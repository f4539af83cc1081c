"""What a chat service is asked to do with a dialogue, and what of its answer is accepted.

LLMBind (section 3.4, figure 6) had a chat service write its dialogues. Here the builder draws the
scenario, with its tasks in order and their prompts, and the service words it. Its answer is data:
it is checked field by field, and an answer that fails a check is not used.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from llmbind_cli.data.dialogues.chat_service import Message
from llmbind_cli.data.dialogues.replies import call
from llmbind_cli.data.sample import Dialogue, Turn
from llmbind_cli.data.spellings import ANY_SPELLING, TAGS, canonical, parse_calls, tasks_called

Mode = Literal["paraphrase", "write"]

KEPT_WORDS = 0.8
"""Share of the content words that must stay: a synonym or two is no other wish."""

_LONGEST_FACTOR, _LONGEST_EXTRA = 4, 300
"""Longest accepted text: this many times the builder's own, and so many characters."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SMALL_WORDS = (
    "a an the of in on at to with and or for from as by is are was be it its this that these "
    "there which who one some into over under"
)
_SMALL = frozenset(_SMALL_WORDS.split())
_STEM = 4
"""Words that agree in so many first letters count as forms of one word."""

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)

_PARAPHRASE = (
    "You reword what users say in conversations with an assistant that makes pictures, clips and "
    "sounds. Reword each user turn as another person would type it: other words, other order, "
    "other tone. Keep the meaning, every detail that is asked for, names, numbers, and the "
    "language. Keep text in angle brackets as it stands. Do not change what the assistant says. "
    'Answer with JSON alone: {"user": ["first user turn", "second user turn", ...]}, one text for '
    "each user turn, in order."
)
_WRITE = (
    "You write conversations between a user and an assistant that makes pictures, clips and "
    "sounds. You get a scenario: for each exchange the tasks that the assistant carries out, in "
    "order, each with its caption and its pair of tags; an exchange without tasks is plain talk "
    "about the given topic. Write what the user says, as different people type, and what the "
    "assistant answers. The assistant's answer holds, for each task, the caption between the "
    "task's tags, with all the words that matter, and may say a few words around them. A user "
    "never writes tags. Answer with JSON alone: "
    '{"turns": [{"user": "...", "assistant": "..."}, ...]}, one object for each exchange.'
)


class UnusableAnswerError(Exception):
    """An answer fails a check.

    Args:
        reason: One of a few words to count by.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_rewritten(mode: Mode, dialogue: Dialogue) -> bool:
    """Tell whether a dialogue is one for the service.

    Plain talk is never written anew: its replies are those of the base language model, and others
    would make its plain answers worse.
    """
    return mode == "paraphrase" or any(tasks_called(turn.text) for turn in dialogue.turns[1::2])


def question_about(mode: Mode, dialogue: Dialogue) -> list[Message]:
    """Return the messages that ask for a dialogue in other words."""
    if mode == "paraphrase":
        asked: Any = [{"from": turn.role, "text": turn.text} for turn in dialogue.turns]
        instruction = _PARAPHRASE
    else:
        asked = {"picture_attached": dialogue.image is not None, "exchanges": _scenario(dialogue)}
        instruction = _WRITE
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": json.dumps(asked, ensure_ascii=False)},
    ]


def rewritten(mode: Mode, dialogue: Dialogue, answer: str) -> Dialogue:
    """Return a dialogue in the words of an answer.

    Args:
        mode: What was asked for.
        dialogue: The builder's dialogue.
        answer: What the service said.

    Raises:
        UnusableAnswerError: The answer is no JSON of the form asked for; has other turns, other
            tasks or another order; or leaves out what was wished for.
    """
    fenced = _FENCE.match(answer)
    try:
        fields = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        raise UnusableAnswerError("no JSON") from None
    exchanges = list(zip(dialogue.turns[::2], dialogue.turns[1::2], strict=True))
    key = "user" if mode == "paraphrase" else "turns"
    entries = fields.get(key) if isinstance(fields, dict) and len(fields) == 1 else None
    if not isinstance(entries, list) or len(entries) != len(exchanges):
        raise UnusableAnswerError("other form")
    turns: list[Turn] = []
    for (user, assistant), entry in zip(exchanges, entries, strict=True):
        if mode == "paraphrase":
            turns += [_reworded(user, assistant, entry), assistant]
        else:
            turns += _written(user, assistant, entry)
    return dataclasses.replace(dialogue, turns=turns)


def _scenario(dialogue: Dialogue) -> list[dict[str, Any]]:
    exchanges: list[dict[str, Any]] = []
    for user, assistant in zip(dialogue.turns[::2], dialogue.turns[1::2], strict=True):
        tasks = [
            {"task": task, "caption": prompt, "tags": list(TAGS[task])}
            for _, task, prompt in parse_calls(assistant.text)
            if task
        ]
        exchanges.append({"tasks": tasks} if tasks else {"tasks": [], "topic": user.text})
    return exchanges


def _reworded(user: Turn, assistant: Turn, entry: Any) -> Turn:
    text = _checked(entry, user.text)
    if Counter(ANY_SPELLING.findall(user.text)) - Counter(ANY_SPELLING.findall(text)):
        raise UnusableAnswerError("tags lost")
    said = _content_words(user.text)
    for _, _, prompt in parse_calls(assistant.text):
        wished = [word for word in _content_words(prompt) if word in said]
        if _kept(wished, text) < KEPT_WORDS:
            raise UnusableAnswerError("words lost")
    return Turn("user", text)


def _written(user: Turn, assistant: Turn, entry: Any) -> list[Turn]:
    if not isinstance(entry, dict) or entry.keys() != {"user", "assistant"}:
        raise UnusableAnswerError("other form")
    said = _checked(entry["user"], user.text)
    answer = _checked(entry["assistant"], assistant.text)
    try:
        parts = parse_calls(canonical(answer))
    except ValueError:
        raise UnusableAnswerError("broken tags") from None
    wanted = parse_calls(assistant.text)
    if [task for _, task, _ in parts] != [task for _, task, _ in wanted]:
        raise UnusableAnswerError("other tasks")
    pieces = []
    for (text, task, prompt), (_, _, wish) in zip(parts, wanted, strict=True):
        pieces.append(text)
        if task:
            if _kept(_content_words(wish), prompt) < KEPT_WORDS:
                raise UnusableAnswerError("words lost")
            # Put there anew: what counts as a call is what the scenario has, and nothing else.
            pieces.append(call(task, prompt))
    return [Turn("user", said), Turn("assistant", " ".join(filter(None, pieces)))]


def _checked(entry: Any, own: str) -> str:
    if not isinstance(entry, str) or not entry.strip():
        raise UnusableAnswerError("other form")
    text = entry.strip()
    if len(text) > _LONGEST_FACTOR * len(own) + _LONGEST_EXTRA:
        raise UnusableAnswerError("too long")
    if any(not (c.isprintable() or c in "\n\t\u200d\ufe0f") for c in text):
        raise UnusableAnswerError("control characters")
    return text


def _content_words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in _SMALL]


def _kept(words: Sequence[str], text: str) -> float:
    """Return the share of words that a text has, in any form; 1 for no words."""
    if not words:
        return 1.0
    found = set(_WORD.findall(text.lower()))
    stems = {word[:_STEM] for word in found if len(word) >= _STEM}
    return sum(word in found or word[:_STEM] in stems for word in words) / len(words)
