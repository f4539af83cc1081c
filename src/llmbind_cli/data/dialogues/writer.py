"""Built dialogues in the words of a chat service (LLMBind section 3.4, figure 6)."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from llmbind_cli.console import console
from llmbind_cli.data.dialogues.answer_journal import AnswerJournal
from llmbind_cli.data.dialogues.builder import DialogueBuilder
from llmbind_cli.data.dialogues.chat_service import Answer, ChatService, Message
from llmbind_cli.data.dialogues.rewriting import (
    UnusableAnswerError,
    is_rewritten,
    question_about,
    rewritten,
)
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.recipes.dialogue_schema import WriterSection

_AHEAD = 2
"""Questions in hand for each one under way, so that a slow answer does not idle the others."""

_GRACE_S = 10.0
"""How long answers under way may still arrive when the run ends early."""


@dataclass(kw_only=True)
class WriterCounts:
    """What became of the dialogues that a service was to write.

    Attributes:
        written: Dialogues in the service's words.
        kept: Reason → dialogues that stay as the builder made them, since the answer was not used.
        not_asked: Dialogues that stay as they are since the budget was used up.
        answers: Answers in the journal.
        requests: Requests that they took, those of earlier runs and retries included.
        tokens: Tokens that they took.
    """

    written: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    not_asked: int = 0
    answers: int = 0
    requests: int = 0
    tokens: int = 0

    def as_fields(self) -> dict[str, Any]:
        """Return the counts as values of JSON."""
        kept = {f"kept: {reason}": count for reason, count in self.kept.most_common()}
        return {name: value for name, value in vars(self).items() if name != "kept"} | kept


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A dialogue on its way; without an answer to come it stays as it is."""

    own: Dialogue
    answer: Future[Answer] | None


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What is to be asked; the answer goes to the journal and then to whoever waits."""

    key: str
    dialogue_id: str
    messages: list[Message]
    answer: Future[Answer]


class DialogueWriter:
    """Iterates over a builder's dialogues in their order, some of them in a service's words.

    Each answer goes to a journal as soon as it arrives, and a question with an answer there is
    not asked again. A dialogue whose answer fails the checks, or repeats another one, stays as
    the builder made it. As a context manager it waits on leaving, for a short time, for answers
    under way.

    Args:
        section: The service, the mode, and the budget.
        builder: Where dialogues and scenarios come from.
        journal: The journal's file.
        offline: Ask nothing; use the journal alone.

    Attributes:
        counts: What was done so far.

    Raises:
        UnavailableError: The package that talks to the service is missing.
        ConfigurationError: The key is missing.
        InputDataError: The journal is damaged.
    """

    def __init__(
        self, section: WriterSection, builder: DialogueBuilder, journal: Path, *, offline: bool
    ) -> None:
        self.counts = WriterCounts()
        self._section = section
        self._builder = builder
        self._service = None if offline else ChatService(section)
        self._journal = AnswerJournal(journal)
        self._earlier = len(self._journal)
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._under_way = 0
        self._closing = False
        self._lock = threading.Lock()
        self._update_counts()

    def __enter__(self) -> DialogueWriter:
        if self._service is not None:
            for _ in range(self._section.concurrency):
                # Daemons: a request that hangs must not keep a finished process alive.
                threading.Thread(target=self._work, args=(self._service,), daemon=True).start()
        if self._earlier:
            console.log(f"journal: {self._earlier:,} answers of earlier runs")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> None:
        self._closing = True
        deadline = time.monotonic() + _GRACE_S
        while self._under_way and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(self._section.concurrency):
            self._questions.put(None)
        self._update_counts()
        if kind is not None:
            console.log(f"journal: {len(self._journal):,} answers kept; a rerun goes on from there")
        self._journal.close()

    def __iter__(self) -> Iterator[Dialogue]:
        """Yield the dialogues.

        Raises:
            TemporaryError: The service fails beyond the retries.
            ConfigurationError: The service refuses key, model or request.
            InputDataError: The builder's material is too small.
        """
        waiting: deque[_Job] = deque()
        for own in self._builder:
            waiting.append(self._job(own))
            while waiting and (
                len(waiting) > _AHEAD * self._section.concurrency
                or waiting[0].answer is None
                or waiting[0].answer.done()
            ):
                yield self._finished(waiting.popleft())
        while waiting:
            yield self._finished(waiting.popleft())
        self._update_counts()

    def _job(self, own: Dialogue) -> _Job:
        """Look a dialogue's answer up, or ask for it where share and budget allow."""
        section = self._section
        drawn = Random(f"{own.id}/writer").random() < section.share
        if not drawn or not is_rewritten(section.mode, own):
            return _Job(own=own, answer=None)
        messages = question_about(section.mode, own)
        asked = json.dumps([section.model, section.mode, messages]).encode()
        key = hashlib.sha256(asked).hexdigest()[:32]
        answer: Future[Answer] = Future()
        if (known := self._journal.get(key)) is not None:
            answer.set_result(known)
        elif self._service is None or not self._affordable():
            self._decline()
            return _Job(own=own, answer=None)
        else:
            with self._lock:
                self._under_way += 1
            self._questions.put(
                _Question(key=key, dialogue_id=own.id, messages=messages, answer=answer)
            )
        return _Job(own=own, answer=answer)

    def _affordable(self) -> bool:
        """Tell whether one more question fits, with those under way at the usual price."""
        section, journal = self._section, self._journal
        with self._lock:
            under_way = self._under_way
        if section.max_requests is not None and (
            journal.requests + under_way >= section.max_requests
        ):
            return False
        expected = under_way * (journal.tokens / len(journal) if len(journal) else 0.0)
        return section.max_tokens is None or journal.tokens + expected < section.max_tokens

    def _decline(self) -> None:
        if self.counts.not_asked == 0 and self._service is not None:
            console.warn(
                f"{self._section.endpoint}: the budget is used up ({self._journal.requests:,} "
                f"requests, {self._journal.tokens:,} tokens); the other dialogues stay as built"
            )
        self.counts.not_asked += 1

    def _finished(self, job: _Job) -> Dialogue:
        """Wait for the answer and return the dialogue in its words, or as it was."""
        if job.answer is None:
            return job.own
        try:
            dialogue = rewritten(self._section.mode, job.own, job.answer.result().text)
            if not self._builder.claim(dialogue):
                raise UnusableAnswerError("repetition")
        except UnusableAnswerError as error:
            self.counts.kept[error.reason] += 1
            return job.own
        self.counts.written += 1
        return dialogue

    def _work(self, service: ChatService) -> None:
        """Answer questions until there is none to come; runs in a thread of its own."""
        while (question := self._questions.get()) is not None:
            try:
                if self._closing:
                    question.answer.cancel()
                    continue
                received = service.ask(question.messages)
                self._journal.append(question.key, question.dialogue_id, received)
                question.answer.set_result(received)
            except BaseException as error:
                # Before the next question is taken: a service that fails is left alone. Those
                # behind this one are given up, and whoever waits meets this failure first.
                self._closing = True
                question.answer.set_exception(error)
            finally:
                with self._lock:
                    self._under_way -= 1

    def _update_counts(self) -> None:
        self.counts.answers = len(self._journal)
        self.counts.requests = self._journal.requests
        self.counts.tokens = self._journal.tokens
