"""``llmbind chat``: a conversation on a terminal, one turn, or a file of turns."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import OutputError, UsageError
from llmbind_cli.gallery import write_gallery
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.artifacts import MANIFEST, ArtifactFolder
from llmbind_cli.inference.chat.history import HistoryEntry
from llmbind_cli.inference.chat.journal import open_journal
from llmbind_cli.inference.chat.repl import Repl, show_numbered
from llmbind_cli.inference.chat.replay import replay
from llmbind_cli.inference.chat.session import Session
from llmbind_cli.inference.chat.turn import Turn
from llmbind_cli.inference.generate import plan_requests
from llmbind_cli.inference.masks import MaskSettings, WithMasks
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import Request, read_requests, read_stdin
from llmbind_cli.inference.terminal.preview import Preview


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """The flags of ``llmbind chat`` beside those of the model.

    Attributes:
        out: Folder for the files made.
        session: File that keeps the conversation.
        preview: Whether pictures are shown in the terminal; ``None`` lets the terminal decide.
        gallery: Write a gallery of ``out`` at the end.
        generators: Modality → source, from ``--generator``.
        max_new_tokens: Longest reply, in tokens.
        temperature: 0 takes the likeliest token.
        seed: Seed of every random choice.
    """

    out: Path
    session: Path | None = None
    preview: bool | None = None
    gallery: bool = False
    generators: dict[str, str]
    max_new_tokens: int
    temperature: float
    seed: int


def run_chat(
    *, prompt: str | None, images: Sequence[Path], chat: ChatOptions, options: ModelOptions
) -> None:
    """Hold a conversation on a terminal, or one turn with a prompt; see ``commands/chat.md``.

    Args:
        prompt: The user's words, ``-`` for stdin; ``None`` reads a terminal or, where stdin is
            none, all of stdin.
        images: Pictures attached to the first message.
        chat: The command's own flags.
        options: The model's flags.

    Raises:
        LlmbindError: Of the class whose exit code tells what went wrong.
    """
    prompt = _prompt(prompt)
    # All that can be wrong with files is said before a model loads, which takes seconds.
    for image in images:
        read_picture(image)
    _check_out(chat.out)
    with ExitStack() as resources:
        journal = None
        if chat.session is not None:
            journal = resources.enter_context(open_journal(chat.session))
        session = Session(
            options.load(),
            max_new_tokens=chat.max_new_tokens,
            temperature=chat.temperature,
            seed=chat.seed,
        )
        if journal is not None:
            session.keep(journal)
        for image in images:
            session.attach(image)
        _hold(prompt, session, chat, options.generators(chat.generators), resources)


def plan_chat(
    *,
    prompt: str | None,
    images: Sequence[Path],
    requests: str | None,
    chat: ChatOptions,
    options: ModelOptions,
) -> None:
    """Print the decision on one turn, or on each line of a file; run nothing.

    Raises:
        LlmbindError: Of the class whose exit code tells what went wrong.
    """
    if chat.session is not None:
        raise UsageError("--plan runs nothing, so there is nothing for --session to keep")
    if requests is not None:
        items = read_requests(requests)
    else:
        prompt = _prompt(prompt)
        if prompt is None:
            raise UsageError("--plan needs a PROMPT, a pipe or --from")
        items = [Request(id="turn-1", prompt=prompt, images=tuple(images))]
    plan_requests(
        items,
        options=options,
        seed=chat.seed,
        max_new_tokens=chat.max_new_tokens,
        temperature=chat.temperature,
    )


def replay_chat(*, chat: ChatOptions, options: ModelOptions) -> None:
    """Make the files of a kept conversation again.

    Raises:
        LlmbindError: Of the class whose exit code tells what went wrong.
    """
    if chat.session is None or not chat.session.is_file():
        raise UsageError("--replay needs --session FILE with a conversation that was kept")
    replay(chat.session, generators=options.generators(chat.generators), out=chat.out)
    if chat.gallery:
        _write_gallery(chat.out)


def _hold(
    prompt: str | None,
    session: Session,
    chat: ChatOptions,
    generators: GeneratorRegistry,
    resources: ExitStack,
) -> None:
    preview = Preview.on_stdout(chat.preview)

    def show(entry: HistoryEntry) -> None:
        if console.json:
            return  # the result line names the file
        if prompt is None:
            show_numbered(entry)
        else:
            console.result(str(entry.path))
        if entry.is_picture:
            preview.show(entry.path)

    makers = WithMasks(generators, lambda: session.model, MaskSettings())
    turn = Turn(session, makers, out=chat.out, seed=chat.seed, on_file=show)
    try:
        if prompt is not None:
            turn.run(prompt, stream=not console.json)
        else:
            Repl(turn, preview=preview, resources=resources).run()
    finally:
        if chat.gallery:
            _write_gallery(chat.out)


def _prompt(prompt: str | None) -> str | None:
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        return read_stdin()
    return prompt


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot be written; one that is missing is made with the first file."""
    if out.exists():
        ArtifactFolder(out=out)
        return
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be created in {above}; choose another --out")


def _write_gallery(out: Path) -> None:
    if not (out / MANIFEST).is_file():
        console.log("no gallery: nothing was made yet")
        return
    console.log(f"gallery: {write_gallery(out)}")
