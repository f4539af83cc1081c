"""A chat service behind an OpenAI-compatible endpoint: one question, one answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmbind_cli.errors import ConfigurationError, LlmbindError, TemporaryError, UnavailableError
from llmbind_cli.recipes.dialogue_schema import WriterSection

Message = dict[str, str]
"""``{"role", "content"}``, as the chat-completions interface has it."""

_PASSING_STATUS = frozenset({408, 409, 425, 429})
_CHARACTERS_PER_TOKEN = 4
"""For services that do not count tokens."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a service said.

    Attributes:
        text: Its words; empty when it gave none, refused, or sent something else.
        tokens: Tokens of question and answer, as the service counts, or estimated.
        requests: HTTP requests that it took, retries included.
    """

    text: str
    tokens: int
    requests: int


class ChatService:
    """Asks a service; safe to use from several threads.

    The client repeats a request after 408, 409, 429, a server error, a time-out or a broken
    connection, with growing pauses, and waits as long as ``Retry-After`` says, up to two minutes.

    Args:
        section: Endpoint, model, key, time-out and retries.

    Raises:
        UnavailableError: The ``openai`` package is missing.
        ConfigurationError: The environment variable of the key is not set.
    """

    def __init__(self, section: WriterSection) -> None:
        try:
            import openai
        except ImportError as error:
            raise UnavailableError(
                "data.writer needs the openai package: pip install 'llmbind[write]'"
            ) from error
        key = "none"
        if section.api_key_env is not None:
            key = os.environ.get(section.api_key_env, "").strip()
            if not key:
                raise ConfigurationError(
                    f"data.writer: the environment variable {section.api_key_env} is not set; it "
                    f"must hold the key of {section.endpoint}"
                )
        self._section = section
        self._client = openai.OpenAI(
            base_url=section.endpoint,
            api_key=key,
            timeout=section.timeout_s,
            max_retries=section.retries,
        )

    def ask(self, messages: Sequence[Message]) -> Answer:
        """Ask one question.

        Raises:
            TemporaryError: The service gave no answer, or one that may pass, until the retries
                were used up.
            ConfigurationError: The service refuses key, model or request.
        """
        import openai

        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._section.model,
                messages=list(messages),
            )
        except openai.APIStatusError as error:
            if getattr(error, "code", None) == "content_filter":
                return Answer(text="", tokens=_estimated(messages), requests=1)
            raise self._refusal(error.status_code, error.message) from error
        except openai.APIConnectionError as error:
            raise TemporaryError(
                f"{self._section.endpoint}: no answer ({type(error).__name__}) in "
                f"{self._section.retries + 1} tries; run again later"
            ) from error
        text, tokens = _content(raw)
        estimated = _estimated(messages) + len(text) // _CHARACTERS_PER_TOKEN
        return Answer(text=text, tokens=tokens or estimated, requests=1 + raw.retries_taken)

    def _refusal(self, status: int, message: str) -> LlmbindError:
        where = f"{self._section.endpoint}: HTTP {status}"
        said = "".join(c if c.isprintable() else " " for c in message)[:200]
        if status in _PASSING_STATUS or status >= 500:
            tries = self._section.retries + 1
            return TemporaryError(f"{where} after up to {tries} tries: {said}; run again later")
        if status in (401, 403):
            # Not what the service says: some repeat the key.
            source = self._section.api_key_env or "no key; set data.writer.api_key_env"
            return ConfigurationError(f"{where}: the key is refused ({source})")
        return ConfigurationError(f"{where} for model {self._section.model!r}: {said}")


def _content(raw: Any) -> tuple[str, int]:
    """Return text and token count of a reply; nothing of one that has another form."""
    try:
        completion = raw.parse()
        text = completion.choices[0].message.content
        tokens = completion.usage.total_tokens if completion.usage is not None else 0
    except (AttributeError, IndexError, TypeError, ValueError):
        return "", 0
    valid = isinstance(tokens, int) and tokens > 0
    return text if isinstance(text, str) else "", tokens if valid else 0


def _estimated(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) for message in messages) // _CHARACTERS_PER_TOKEN
