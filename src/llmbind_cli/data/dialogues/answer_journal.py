"""The journal of a chat service's answers: what was paid for is never asked again."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from llmbind_cli.data.dialogues.chat_service import Answer
from llmbind_cli.errors import InputDataError
from llmbind_cli.weights.atomic import storage_error


class AnswerJournal:
    """JSON lines of ``{"key", "id", "text", "tokens", "requests"}``, each flushed to the disk.

    Opening drops what a killed run left of an unfinished last line. Answers stay in the file;
    memory holds their places. Appending is safe from several threads.

    Args:
        path: The file; made when missing.

    Attributes:
        requests: Requests that all answers took together.
        tokens: Tokens of all answers together.

    Raises:
        InputDataError: A whole line is none of a journal's; names the line.
        OutputError: The file cannot be written.
        StorageError: The disk is full or failing.
    """

    def __init__(self, path: Path) -> None:
        self.requests = 0
        self.tokens = 0
        self._path = path
        self._places: dict[str, int] = {}
        self._lock = threading.Lock()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise storage_error(path, error) from error
        self._file = os.fdopen(descriptor, "r+b")
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._places)

    def get(self, key: str) -> Answer | None:
        """Return the answer to a question, if there is one."""
        with self._lock:
            place = self._places.get(key)
            if place is None:
                return None
            self._file.seek(place)
            fields = json.loads(self._file.readline())
        return Answer(text=fields["text"], tokens=fields["tokens"], requests=fields["requests"])

    def append(self, key: str, dialogue_id: str, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns.

        Raises:
            StorageError: The disk is full or failing; the journal is as it was.
        """
        fields = {"key": key, "id": dialogue_id, **vars(answer)}
        line = json.dumps(fields).encode() + b"\n"  # ASCII, so that half a character stays one
        with self._lock:
            place = self._file.seek(0, os.SEEK_END)
            try:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                os.ftruncate(self._file.fileno(), place)
                raise storage_error(self._path, error) from error
            self._index(fields, place)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _read(self) -> None:
        end = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            self._index(self._entry(line, number), end)
            end += len(line)
        self._file.truncate(end)

    def _index(self, fields: dict[str, Any], place: int) -> None:
        self._places[fields["key"]] = place
        self.requests += fields["requests"]
        self.tokens += fields["tokens"]

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = json.loads(line)
            kinds = {"key": str, "id": str, "text": str, "tokens": int, "requests": int}
            whole = all(isinstance(fields[name], kind) for name, kind in kinds.items())
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise InputDataError(
                f"{self._path}: line {number}: no answer of a writer; move the file away to ask "
                f"for everything anew"
            )
        return fields
