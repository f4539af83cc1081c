"""The ``llmbind`` application: six commands, ``--version``, and errors turned into exit codes.

:func:`main` is the only place that catches everything. The codes stand in
:mod:`llmbind_cli.errors` and, for users, in ``docs/exit-codes.md``.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from llmbind_cli import __version__
from llmbind_cli.commands import chat, edit, eval, generate, segment, train
from llmbind_cli.console import console
from llmbind_cli.errors import LlmbindError, StorageError

EXIT_BUG = 1
EXIT_SIGINT = 130
EXIT_SIGTERM = 143
ISSUES = "the llmbind issue tracker"

app = typer.Typer(
    name="llmbind",
    help="Bind one language model to frozen models of every modality.",
    epilog="'llmbind COMMAND --help' shows what one command takes.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _print_version(value: bool) -> None:
    if value:
        console.result(f"llmbind {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Takes the options that stand before a command."""


for _command in (train.train, chat.chat, generate.generate, segment.segment, edit.edit, eval.eval):
    app.command()(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: The words after ``llmbind``; those of the process if not given.

    Returns:
        The exit code.
    """
    _prepare_streams()
    try:
        with _sigterm_ends_the_run():
            try:
                app(args=arguments, prog_name="llmbind")
            except SystemExit as end:
                code = _code_of(end)
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        code = EXIT_SIGINT
    except LlmbindError as error:
        code = _report(error)
    except OSError as error:
        # The medium failed under a write that no caller expected to fail.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            code = _report(StorageError(str(error)))
        else:
            code = _report_bug(error)
    except Exception as error:
        code = _report_bug(error)
    return _flush_stdout(code)


def _prepare_streams() -> None:
    """Lets whoever started the process close its streams, or have them in any encoding.

    A closed one becomes an empty one. The lowest free descriptor is then that of the stream, so no
    file that is opened later takes its place, and child processes get it too.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, descriptor <= 2)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    codecs.register_error("llmbind.escape", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="llmbind.escape")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Escape what an encoding lacks as JSON does, so that a line of JSON stays one."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end]).strip('"'), error.end


def _code_of(end: SystemExit) -> int:
    """The exit code that Typer asks for, which is 1 where a reader closed the pipe."""
    if isinstance(end.__context__, BrokenPipeError):
        raise end.__context__
    return end.code if isinstance(end.code, int) else 0 if end.code is None else EXIT_BUG


def _report(error: LlmbindError) -> int:
    if console.debug:
        traceback.print_exception(error.__cause__ or error)
    console.error(str(error))
    return error.exit_code


def _report_bug(error: Exception) -> int:
    if console.debug:
        traceback.print_exception(error)
        advice = f"this is a bug: please report it with the traceback above to {ISSUES}"
    else:
        advice = f"this is a bug: run again with --debug and report it to {ISSUES}"
    what = " ".join(str(error).split())
    console.error(f"unexpected {type(error).__name__}: {what} ({advice})")
    return EXIT_BUG


def _flush_stdout(code: int) -> int:
    """Writes what is still buffered, also after a failure, and returns the exit code.

    Where that fails, stdout is pointed at nothing: the interpreter's own last flush would fail
    again, print a message and change the exit code.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
        if code == 0 and not isinstance(error, BrokenPipeError):
            return _report(StorageError(f"stdout: {error.strerror}"))
    return code


@contextmanager
def _sigterm_ends_the_run() -> Iterator[None]:
    """Turns SIGTERM into an exit that runs every ``finally``; a batch sets its own handler."""

    def end(_signal: int, _frame: object) -> NoReturn:
        sys.exit(EXIT_SIGTERM)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
