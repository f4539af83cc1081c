"""How task tokens are spelled in training text: as in the token table, or as an alias of it."""

from __future__ import annotations

import re

from llmbind_cli.tokens import TASK_TOKENS

TAGS = {token.task: (token.open, token.close) for token in TASK_TOKENS if token.close is not None}
"""Task → opening and closing token, for the tasks whose prompt stands between a pair."""

SEGMENT = next(token.open for token in TASK_TOKENS if token.task == "segment")
"""The segmentation token: its hidden state is what the mask decoder is asked with."""

# The paper's tables spell two pairs in another way than its text (LLMBind tables 1 and 2), and the
# authors' audio dialogues open with one spelling and close with the other.
_ALIASES = {
    f"{bracket}{alias}>": TAGS[task][index]
    for alias, task in (("video_cap", "video"), ("audio_cap", "audio"))
    for index, bracket in enumerate(("<", "</"))
}
_ALIAS = re.compile("|".join(map(re.escape, _ALIASES)))
_CLOSES = dict(TAGS.values())
_TASKS = {token.open: token.task for token in TASK_TOKENS}
_OPENER = re.compile("|".join(map(re.escape, _TASKS)))

SPELLING = re.compile("|".join(re.escape(s) for token in TASK_TOKENS for s in token.spellings))
"""Matches every spelling of the token table."""

ANY_SPELLING = re.compile(f"{SPELLING.pattern}|{_ALIAS.pattern}")
"""Matches the aliases as well."""


def canonical(text: str) -> str:
    """Return a reply with every alias in the spelling of the token table."""
    return _ALIAS.sub(lambda match: _ALIASES[match[0]], text)


def parse_calls(text: str) -> list[tuple[str, str, str]]:
    """Parse a reply in canonical spelling strictly.

    Args:
        text: The reply.

    Returns:
        For each call the plain text before it, the task, and the prompt (empty for a token that
        stands alone); at the end the plain text after the last call, with an empty task.

    Raises:
        ValueError: A pair is not closed, not opened, nested, crossed or empty; says which.
    """
    parts: list[tuple[str, str, str]] = []
    pending: re.Match[str] | None = None
    end = 0
    for match in SPELLING.finditer(text):
        token = match[0]
        if pending is not None:
            if token != _CLOSES[pending[0]]:
                raise ValueError(f"{token} inside {pending[0]}")
            prompt = text[pending.end() : match.start()].strip()
            if not prompt:
                raise ValueError(f"nothing between {pending[0]} and {token}")
            parts.append((text[end : pending.start()].strip(), _TASKS[pending[0]], prompt))
            pending, end = None, match.end()
        elif token in _CLOSES:
            pending = match
        elif token.startswith("</"):
            raise ValueError(f"{token} closes nothing")
        else:
            parts.append((text[end : match.start()].strip(), _TASKS[token], ""))
            end = match.end()
    if pending is not None:
        raise ValueError(f"{pending[0]} is not closed by {_CLOSES[pending[0]]}")
    return [*parts, (text[end:].strip(), "", "")]


def tasks_called(text: str) -> list[str]:
    """Return the task of each call in a reply, in order; none for plain talk."""
    return [_TASKS[opener] for opener in _OPENER.findall(text)]
