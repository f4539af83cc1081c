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
    """Read JSON lines of ``{"prompt", "reply", "complete"}``.

    Raises:
        InputDataError: The file is missing or a line does not have that form; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputDataError(f"{path}: cannot be read: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            pair = Talk(fields["prompt"], fields["reply"], fields.get("complete", True))
        except (ValueError, KeyError, TypeError) as error:
            raise InputDataError(
                f'{path}:{number}: expected {{"prompt", "reply", "complete"}}: {error}'
            ) from error
        if not pair.prompt.strip() or not pair.reply.strip():
            raise InputDataError(f"{path}:{number}: prompt and reply must not be empty")
        pairs.append(pair)
    return pairs
