"""``llmbind chat --session FILE --replay``: make the files of a kept conversation again.

The decisions stand in the session file, so no language model is loaded. On the same machine, with
the same generators, the files come out byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.errors import PartialFailure
from llmbind_cli.inference.artifacts import ArtifactFolder
from llmbind_cli.inference.chat.journal import (
    AttachEvent,
    FileRecord,
    ResetEvent,
    TurnEvent,
    read_journal,
)
from llmbind_cli.inference.dispatch import SIGHT_TASKS, GeneratorSource, Job, dispatch
from llmbind_cli.inference.generate import show
from llmbind_cli.weights.hashes import sha256_file


def replay(path: Path, *, generators: GeneratorSource, out: Path) -> None:
    """Make every file of a session again, in order, and compare it with the first one.

    Args:
        path: The session file.
        generators: The frozen models.
        out: Folder for the files.

    Raises:
        InputDataError: It is no session file, or a line of it is damaged.
        PartialFailure: A file could not be made, or differs from the one in the session.
        OutputError: The folder cannot be written.
        StorageError: The disk is full or failing.
    """
    events = read_journal(path)
    folder = ArtifactFolder(out=out)
    pictures: dict[int, Path] = {}
    wrong: list[str] = []
    total = 0
    for event in events:
        if isinstance(event, ResetEvent):
            pictures.clear()
        elif isinstance(event, AttachEvent):
            pictures[event.file.number] = event.file.path
            if not _is_same(event.file):
                wrong.append(f"#{event.file.number} ({event.file.path}) is gone or was altered")
        elif isinstance(event, TurnEvent):
            for index, call in enumerate(event.calls):
                if call.file is None or _needs_model(event, index):
                    continue
                total += 1
                (line,) = dispatch(
                    [_job(event, index, pictures)],
                    generators=generators,
                    artifacts=folder,
                    model=event.model,
                )
                show(line)
                name = f"turn {event.turn}, #{call.file.number}"
                if line.error is not None:
                    wrong.append(f"{name}: {line.error}")
                    continue
                pictures[call.file.number] = Path(line.files[0].path)
                if line.files[0].sha256 != call.file.sha256:
                    wrong.append(f"{name} ({line.files[0].path}) differs from the first one")
    for what in wrong:
        console.warn(what)
    if wrong:
        raise PartialFailure(f"the replay of {path} is not the same: {wrong[0]}")
    made = "1 file" if total == 1 else f"{total} files"
    console.log(f"made {made} again, byte for byte")


def _job(event: TurnEvent, index: int, pictures: dict[int, Path]) -> Job:
    call = event.calls[index]
    return Job(
        item_id=f"turn-{event.turn}",
        index=index,
        task=call.task,
        prompt=call.prompt,
        seed=call.seed,
        reply=event.reply,
        image=None if call.source is None else pictures.get(call.source),
    )


def _needs_model(event: TurnEvent, index: int) -> bool:
    """Say whether a call's file came from the language model's own state, and tell that it did."""
    if event.calls[index].task not in SIGHT_TASKS:
        return False
    console.warn(f"turn {event.turn}: a mask is left out, since it needs the language model")
    return True


def _is_same(file: FileRecord) -> bool:
    return file.path.is_file() and sha256_file(file.path) == file.sha256
