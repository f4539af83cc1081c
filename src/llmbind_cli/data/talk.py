"""Pairs of plain talk: a prompt and the base LLM's own reply to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmbind_cli.errors import InputDataError


@dataclass(frozen=True, slots=True)
class Talk:
    """One exchange that calls no task.

    Attributes:
        prompt: What the user says.
        reply: What the base LLM answers.
        complete: False when the reply was cut at a length limit.
    """

    prompt: str
    reply: str
    complete: bool = True


def read_talk(path: Path) -> list[Talk]:
    """Read JSON lines of ``{"prompt", "reply", "complete"}``; empty lines are passed over.

    Returns:
        The pairs in file order, without white space around prompt and reply.

    Raises:
        InputDataError: The file is missing or a line does not have that form; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputDataError(f"{path}: not UTF-8 at byte {error.start}; convert it first") from None
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read: {error.strerror or error}") from None
    # Not splitlines(): a reply may hold a line separator of another kind within its JSON string.
    lines = enumerate(text.split("\n"), start=1)
    pairs = [_pair(line, f"{path}: line {number}") for number, line in lines if line.strip()]
    if not pairs:
        raise InputDataError(f"{path}: holds no pair of prompt and reply")
    return pairs


def _pair(line: str, where: str) -> Talk:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputDataError(f"{where}: no JSON: {error}") from None
    form = '{"prompt": text, "reply": text, "complete": true or false}'
    if not isinstance(fields, dict):
        raise InputDataError(f"{where}: expected {form}, got {fields!r:.40}")
    prompt, reply = fields.get("prompt"), fields.get("reply")
    complete = fields.get("complete", True)
    if not (isinstance(prompt, str) and isinstance(reply, str) and isinstance(complete, bool)):
        raise InputDataError(f"{where}: expected {form}, got {fields!r:.60}")
    try:
        (prompt + reply).encode()
    except UnicodeEncodeError:
        raise InputDataError(f"{where}: holds half of a character") from None
    prompt, reply = prompt.strip(), reply.strip()
    if not prompt or not reply:
        raise InputDataError(f"{where}: prompt and reply must not be empty")
    return Talk(prompt, reply, complete)
