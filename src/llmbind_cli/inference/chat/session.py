"""A conversation: turns, files, the model that answers, and the session file that keeps it all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.data.pictures import is_there, read_picture
from llmbind_cli.errors import InputDataError, UsageError
from llmbind_cli.inference.artifacts import ArtifactFile
from llmbind_cli.inference.chat.history import ATTACHED, History, HistoryEntry
from llmbind_cli.inference.chat.journal import (
    AttachEvent,
    CallRecord,
    Event,
    FileRecord,
    Journal,
    ResetEvent,
    TurnEvent,
    UseEvent,
)
from llmbind_cli.inference.planner import Plan, Planner
from llmbind_cli.inference.requests import Request
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import ChatTurn
from llmbind_cli.tokens import reply_text
from llmbind_cli.weights.atomic import write_atomically
from llmbind_cli.weights.hashes import sha256_file

_SPEAKER = {"user": "human", "assistant": "gpt"}


class Session:
    """One conversation with one model.

    Args:
        model: The bound model.
        max_new_tokens: Longest reply, in tokens.
        temperature: 0 takes the likeliest token.
        seed: Seed of the conversation; each turn gets its own from it.
    """

    def __init__(
        self, model: BoundModel, *, max_new_tokens: int, temperature: float, seed: int
    ) -> None:
        self.model = model
        self.history = History()
        self.journal: Journal | None = None
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._seed = seed
        self._turns: list[ChatTurn] = []
        self._attached: list[HistoryEntry] = []
        # The pictures of the turns so far, in the order in which the model saw them.
        self._seen: list[HistoryEntry] = []
        self._events: list[Event] = []
        # Counts on over a reset, so that no two turns share a seed or a file name.
        self._turn = 0

    @property
    def num_turns(self) -> int:
        """Exchanges of the conversation so far, those before a reset left out."""
        return len(self._turns) // 2

    def attach(self, image: Path) -> HistoryEntry:
        """Attach a picture to the next message; it is the picture in hand from now on.

        One that waits for that message already, as after a turn that failed, is not taken twice.

        Raises:
            InputDataError: It is no picture that can be read.
        """
        read_picture(image)
        sha256 = sha256_file(image)
        for entry in self._attached:
            if entry.sha256 == sha256 and is_there(entry.path):
                return entry if entry == self.history.in_hand else self.use(entry.number)
        file = FileRecord(
            number=self.history.next_number,
            path=image,
            sha256=sha256,
            media_type=_media_type(image),
        )
        self._record(AttachEvent(file=file))
        return self._attach(file)

    def use(self, number: int) -> HistoryEntry:
        """Make a picture the one that the next edit acts on.

        Raises:
            UsageError: The conversation has no such picture.
        """
        entry = self.history.use(number)
        self._record(UseEvent(number=number))
        return entry

    def reset(self) -> None:
        """Forget all turns and files; the next file is #1 again."""
        self._forget()
        self._record(ResetEvent())

    def has_seen(self, entry: HistoryEntry) -> bool:
        """Say whether a picture was attached or shown; the one to the next message counts too."""
        return entry in self._seen or entry in self._attached

    def ask(
        self,
        prompt: str,
        *,
        shown: Sequence[HistoryEntry] = (),
        on_token: Callable[[int], None] | None = None,
    ) -> Plan:
        """Answer a message; the exchange joins the conversation unless it failed.

        Args:
            prompt: The user's words.
            shown: Pictures made here that the model is to see, beside those attached.
            on_token: Called with each id of the reply as it is emitted.
        """
        self._leave_out_gone_pictures()
        pictures = [*self._attached, *shown]
        request = Request(
            id=f"turn-{self._turn + 1}",
            prompt=prompt,
            history=tuple(self._turns),
            images=tuple(entry.path for entry in pictures),
            earlier_images=tuple(entry.path for entry in self._seen),
        )
        planner = Planner(
            self.model,
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            run_seed=self._seed,
            on_token=None if on_token is None else lambda _row, index: on_token(index),
        )
        (plan,) = planner.plan([request])
        if plan.error is None:
            self._turns += [request.turns()[-1], ChatTurn(role="assistant", content=plan.ids)]
            self._seen += pictures
            self._attached = pictures
            self._turn += 1
        return plan

    def take_back(self, plan: Plan) -> None:
        """Leave out the exchange that :meth:`ask` gave, before any of its calls ran."""
        del self._turns[-2:]
        del self._seen[len(plan.request.earlier_images) :]
        self._turn -= 1

    def add_made(
        self, file: ArtifactFile, *, task: str, prompt: str, seed: int | None, source: int | None
    ) -> HistoryEntry:
        """Take a file that the turn in progress made into the history."""
        entry = HistoryEntry(
            number=self.history.next_number,
            turn=self._turn,
            task=task,
            prompt=prompt,
            path=Path(file.path),
            sha256=file.sha256,
            media_type=file.media_type,
            seed=seed,
            source=source,
        )
        self.history.add(entry)
        return entry

    def conclude(self, plan: Plan, calls: Iterable[CallRecord]) -> None:
        """End a turn: its calls have been carried out, or have failed.

        Raises:
            OutputError: The session file cannot be written.
            StorageError: The disk is full or failing.
        """
        images = tuple(entry.number for entry in self._attached)
        self._attached.clear()
        self._record(
            TurnEvent(
                turn=self._turn,
                user=plan.request.prompt,
                images=images,
                reply=plan.reply or "",
                model=self.model.name,
                calls=tuple(calls),
            )
        )

    def keep(self, journal: Journal) -> None:
        """Keep the conversation in a session file, and go on with what stands in it.

        Raises:
            UsageError: Both the file and this session hold a conversation.
            InputDataError: What stands in the file cannot have happened.
            OutputError: The session file cannot be written.
            StorageError: The disk is full or failing.
        """
        if journal.events and self._events:
            raise UsageError(
                f"{journal.path}: holds a conversation; start with --session to go on with it"
            )
        for event in self._events:
            journal.append(event)
        for event in journal.events:
            try:
                self._restore(event)
            except (ValueError, UsageError) as error:
                raise InputDataError(f"{journal.path}: is damaged: {error}") from error
        self.journal = journal

    def save(self, path: Path) -> None:
        """Write the conversation as one dialogue in the LLaVA shape.

        Raises:
            OutputError: The file cannot be written.
        """
        record = {"id": path.stem, "conversations": [self._spoken(turn) for turn in self._turns]}
        text = json.dumps(record, ensure_ascii=False) + "\n"
        write_atomically(path, lambda stream: stream.write(text.encode("utf-8", "replace")))

    def _record(self, event: Event) -> None:
        if self.journal is not None:
            self.journal.append(event)
        self._events.append(event)

    def _restore(self, event: Event) -> None:
        """Bring the session to where an event of the file brought an earlier one."""
        self._events.append(event)
        if isinstance(event, AttachEvent):
            self._attach(event.file)
        elif isinstance(event, UseEvent):
            self.history.use(event.number)
        elif isinstance(event, ResetEvent):
            self._forget()
        else:
            self._turn = event.turn
            self._attached.clear()
            self._turns += [
                ChatTurn(role="user", content=event.user, num_images=len(event.images)),
                ChatTurn(role="assistant", content=event.reply),
            ]
            self._seen += [self.history.find(number) for number in event.images]
            for call in event.calls:
                if call.file is not None:
                    self.history.add(_made(call, call.file, event.turn))

    def _leave_out_gone_pictures(self) -> None:
        """Forget that pictures were attached whose files are gone, and say so.

        A model that does not see is only told of pictures, so it needs no files.
        """
        if self.model.sight is None:
            return
        seen = iter(self._seen)
        self._seen, turns = [], []
        for turn in self._turns:
            there = [entry for entry in islice(seen, turn.num_images) if _still_there(entry.path)]
            self._seen += there
            turns.append(replace(turn, num_images=len(there)))
        self._turns = turns
        self._attached = [entry for entry in self._attached if _still_there(entry.path)]

    def _attach(self, file: FileRecord) -> HistoryEntry:
        entry = HistoryEntry(
            number=file.number,
            turn=self._turn + 1,
            task=ATTACHED,
            prompt="",
            path=file.path,
            sha256=file.sha256,
            media_type=file.media_type,
        )
        self.history.add(entry)
        self._attached.append(entry)
        return entry

    def _forget(self) -> None:
        self._turns.clear()
        self._seen.clear()
        self._attached.clear()
        self.history.clear()

    def _spoken(self, turn: ChatTurn) -> dict[str, str]:
        content = turn.content
        if not isinstance(content, str):
            content = reply_text(content, self.model.tokenizer, self.model.token_table)
        return {"from": _SPEAKER[turn.role], "value": content}


def _made(call: CallRecord, file: FileRecord, turn: int) -> HistoryEntry:
    return HistoryEntry(
        number=file.number,
        turn=turn,
        task=call.task,
        prompt=call.prompt,
        path=file.path,
        sha256=file.sha256,
        media_type=file.media_type,
        seed=call.seed,
        source=call.source,
    )


def _still_there(picture: Path) -> bool:
    if is_there(picture):
        return True
    console.warn(f"{picture}: is gone; the conversation goes on without this picture")
    return False


def _media_type(image: Path) -> str:
    """Return the type that a picture's content has, whatever its name says."""
    from PIL import Image

    with Image.open(image) as opened:
        return opened.get_format_mimetype() or "image/unknown"
