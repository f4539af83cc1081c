"""One message and what follows from it: the reply, then the files it calls for, in order."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from llmbind_cli.console import console
from llmbind_cli.errors import LlmbindError, PartialFailure, UsageError
from llmbind_cli.inference.artifacts import ArtifactFolder, ResultLine
from llmbind_cli.inference.chat.history import History, HistoryEntry
from llmbind_cli.inference.chat.journal import CallRecord, FileRecord
from llmbind_cli.inference.chat.session import Session
from llmbind_cli.inference.chat.streaming import ReplyPrinter
from llmbind_cli.inference.decisions import Decision
from llmbind_cli.inference.dispatch import (
    SIGHT_TASKS,
    GeneratorSource,
    Job,
    dispatch,
    jobs_of_reply,
)
from llmbind_cli.inference.planner import Plan

_PICTURE_TASKS = ("image", "edit")


class CheckedGenerators(GeneratorSource, Protocol):
    """A source of generators that can say beforehand whether it has one."""

    def check(self, modality: str) -> str:
        """Return where the generator of a task comes from, or raise; loads nothing."""


class EditSources:
    """Which picture each edit of one reply starts from, and which one each mask is of.

    The k-th edit takes the k-th picture that the message names; an edit beyond those takes the
    picture in hand, which may be one that the same reply has just made. The k-th mask is of the
    k-th picture named, those beyond are of the last one named, and where none is named all are of
    the one that was in hand before the reply.
    """

    def __init__(self, history: History, message: str) -> None:
        self._history = history
        self._message = message
        self._named: list[HistoryEntry] | None = None
        self._pointed: list[HistoryEntry] | None = None
        self._missing = False

    def note(self, line: ResultLine) -> None:
        """Take note of what became of a call of the same reply."""
        if line.task in _PICTURE_TASKS:
            self._missing = line.error is not None

    def take(self) -> HistoryEntry:
        """Return the picture of the next edit.

        Raises:
            UsageError: The conversation has no picture, or not the one that is named.
            PartialFailure: The call before it was to make the picture, and failed.
        """
        if self._named is None:
            self._named = self._history.named(self._message)
        if self._named:
            return self._named.pop(0)
        if self._missing:
            raise PartialFailure("the picture that this edit was to start from was not made")
        if self._history.in_hand is None:
            raise UsageError(
                "the reply asks for an edit, and this conversation has no picture: attach one "
                "with --image FILE, or /image FILE on a terminal"
            )
        return self._history.in_hand

    def in_view(self) -> list[HistoryEntry]:
        """Return the pictures that masks and boxes are of; asked for before any call runs.

        Raises:
            UsageError: The message names a picture that the conversation does not have.
        """
        if self._pointed is None:
            in_hand = self._history.in_hand
            named = self._history.named(self._message)
            self._pointed = named or ([] if in_hand is None else [in_hand])
        return self._pointed

    def look(self) -> HistoryEntry:
        """Return the picture of the next mask or box.

        Raises:
            UsageError: The conversation has no picture, or not the one that is named.
        """
        pointed = self.in_view()
        if not pointed:
            raise UsageError(
                "the reply points at a picture, and this conversation has none: attach one with "
                "--image FILE, or /image FILE on a terminal"
            )
        return pointed.pop(0) if len(pointed) > 1 else pointed[0]


class Turn:
    """Answers messages of a session and carries out what the replies call for.

    Args:
        session: The conversation.
        generators: The frozen models.
        out: Folder for the files made; created with the first of them.
        seed: Value of ``--seed``.
        on_file: Called with each file made, once it is on disk and has its number.
    """

    def __init__(
        self,
        session: Session,
        generators: CheckedGenerators,
        *,
        out: Path,
        seed: int,
        on_file: Callable[[HistoryEntry], None],
    ) -> None:
        self.session = session
        self.out = out
        self._generators = generators
        self._seed = seed
        self._on_file = on_file

    def run(self, prompt: str, *, stream: bool) -> None:
        """Answer, show the reply, and run its task calls in order.

        Raises:
            PartialFailure: Some of several calls failed.
            LlmbindError: The request could not be answered, or its only call failed.
        """
        model = self.session.model
        sources = EditSources(self.session.history, prompt)
        printer = ReplyPrinter(model.tokenizer, model.token_table, _write) if stream else None
        try:
            plan = self._ask(prompt, self._unseen(sources), printer)
        finally:
            if printer is not None:
                printer.finish()
        if console.json and (plan.error is not None or not plan.calls):
            for line in plan.lines(model.name):
                console.result(line.to_json())
        if plan.error is not None:
            raise plan.error
        records: list[CallRecord] = []
        try:
            failures = self._carry_out(plan, sources, records)
        finally:
            self.session.conclude(plan, records)
        if failures:
            raise _summary(failures, len(plan.calls))

    def _unseen(self, sources: EditSources) -> list[HistoryEntry]:
        """Return the pictures that a mask would be of though the model has not seen them."""
        try:
            in_view = sources.in_view()
        except UsageError:
            return []  # the call that points at one tells of it
        if self.session.model.sight is None:
            return []
        return [entry for entry in in_view if not self.session.has_seen(entry)]

    def _ask(
        self, prompt: str, unseen: Sequence[HistoryEntry], printer: ReplyPrinter | None
    ) -> Plan:
        """Answer; a reply that points at what the model has not seen is decided anew with it."""
        if not unseen:
            return self.session.ask(prompt, on_token=printer)
        # Nothing of a reply that may be given up is shown before it is whole.
        plan = self.session.ask(prompt)
        if any(call.task in SIGHT_TASKS for call in plan.calls):
            self.session.take_back(plan)
            return self.session.ask(prompt, shown=unseen, on_token=printer)
        if printer is not None:
            for index in plan.ids:
                printer(index)
        return plan

    def _carry_out(
        self, plan: Plan, sources: EditSources, records: list[CallRecord]
    ) -> list[LlmbindError]:
        """Run the calls, add a record of each to ``records``, and return the errors."""
        failures = []
        for job in jobs_of_reply(
            Decision.of(plan).calls,
            item_id=plan.request.id,
            run_seed=self._seed,
            reply=plan.reply,
        ):
            line, source = self._run(job, sources)
            sources.note(line)
            if line.error is not None:
                failures.append(line.error)
            records.append(self._record(line, job.seed, source))
        return failures

    def _run(self, job: Job, sources: EditSources) -> tuple[ResultLine, HistoryEntry | None]:
        source = None
        try:
            if job.task == "edit":
                source = sources.take()
            elif job.task in SIGHT_TASKS:
                source = sources.look()
            self._generators.check(job.task)
            job = dataclasses.replace(job, image=None if source is None else source.path)
        except LlmbindError as error:
            line = self._failed(job, error)
        else:
            (line,) = dispatch(
                [job],
                generators=self._generators,
                artifacts=ArtifactFolder(out=self.out),
                model=self.session.model.name,
            )
        if console.json:
            console.result(line.to_json())
        return line, source

    def _failed(self, job: Job, error: LlmbindError) -> ResultLine:
        return ResultLine(
            id=job.item_id,
            status="failed",
            task=job.task,
            prompt=job.prompt,
            reply=job.reply,
            seed=job.seed,
            model=self.session.model.name,
            seconds=0.0,
            error=error,
        )

    def _record(self, line: ResultLine, seed: int, source: HistoryEntry | None) -> CallRecord:
        made = None
        number = None if source is None else source.number
        if line.files:
            entry = self.session.add_made(
                line.files[0], task=line.task, prompt=line.prompt, seed=seed, source=number
            )
            made = FileRecord(
                number=entry.number,
                path=entry.path,
                sha256=entry.sha256,
                media_type=entry.media_type,
            )
            self._on_file(entry)
        error = line.error
        return CallRecord(
            task=line.task,
            prompt=line.prompt,
            seed=seed,
            source=number,
            file=made,
            error=None if error is None else {"code": error.exit_code, "message": str(error)},
        )


def _summary(failures: list[LlmbindError], num_calls: int) -> LlmbindError:
    if num_calls == len(failures):
        return failures[0]
    return PartialFailure(
        f"{len(failures)} of the {num_calls} calls of this reply failed: {failures[0]}"
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
