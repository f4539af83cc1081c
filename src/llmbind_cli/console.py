"""What llmbind writes to a terminal, and where.

Results go to stdout and nothing else does; logs, warnings, errors and progress bars go to stderr.
A bar appears only where stderr is a terminal and neither ``--quiet`` nor ``--json`` was given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Never, TextIO, TypeVar, overload

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")

_RED = "31"
_YELLOW = "33"


class Console:
    """The terminal settings of one process, and the only way to write to its streams.

    Attributes:
        quiet: Leave out logs and bars. Warnings and errors stay.
        json: Results are JSON lines: no bars, and an error takes one line.
        debug: An error shows its traceback.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.json = False
        self.debug = False

    def configure(self, *, quiet: bool = False, json: bool = False, debug: bool = False) -> None:
        """Takes over the flags of the command that runs.

        Bars that other packages would draw follow the same rule, so this must run before those
        packages are imported.

        Args:
            quiet: Value of ``--quiet``.
            json: Value of ``--json``.
            debug: Value of ``--debug``.
        """
        self.quiet, self.json, self.debug = quiet, json, debug
        if not self.shows_bars:
            # Read by tqdm and by huggingface_hub at import; a value that the user set stays.
            os.environ.setdefault("TQDM_DISABLE", "1")
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    @property
    def shows_bars(self) -> bool:
        """Whether progress bars are drawn."""
        return not self.quiet and not self.json and sys.stderr.isatty()

    def result(self, text: str) -> None:
        """Writes one result to stdout, at once, so that a reader of a pipe sees it.

        Args:
            text: The line or lines, without the last line end.

        Raises:
            BrokenPipeError: The reader has gone; the application ends quietly.
        """
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def log(self, message: str) -> None:
        """Writes what is going on to stderr, unless ``--quiet``.

        Args:
            message: One line.
        """
        if not self.quiet:
            self._write_line(message)

    def warn(self, message: str) -> None:
        """Writes a warning to stderr, also under ``--quiet``.

        Args:
            message: What is doubtful, and what follows from it.
        """
        self._write_line(f"llmbind: {coloured('warning:', _YELLOW, sys.stderr)} {message}")

    def error(self, message: str) -> None:
        """Writes why the run failed to stderr; with ``--json`` always as one line.

        Args:
            message: What went wrong, where, and what to do.
        """
        if self.json:
            message = " ".join(message.split())
        self._write_line(f"llmbind: {coloured('error:', _RED, sys.stderr)} {message}")

    @overload
    def progress(
        self,
        iterable: Iterable[Item],
        *,
        total: float | None = ...,
        desc: str = ...,
        unit: str = ...,
    ) -> tqdm[Item]: ...

    @overload
    def progress(
        self, iterable: None = ..., *, total: float | None = ..., desc: str = ..., unit: str = ...
    ) -> tqdm[Never]: ...

    def progress(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        total: float | None = None,
        desc: str = "",
        unit: str = "it",
    ) -> tqdm[Any]:
        """Makes a progress bar on stderr, which draws nothing where bars are not wanted.

        Args:
            iterable: What to iterate over; without it, call ``update`` on the bar.
            total: Number of steps, where the iterable does not know its length.
            desc: Text before the bar.
            unit: Name of one step.

        Returns:
            A ``tqdm`` bar; a context manager.
        """
        from tqdm import tqdm

        return tqdm(
            iterable,
            total=total,
            desc=desc,
            unit=unit,
            file=sys.stderr,
            disable=not self.shows_bars,
        )

    def _write_line(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def coloured(text: str, code: str, stream: TextIO) -> str:
    """Colours a word where the stream is a terminal that shows colours (no-color.org).

    Args:
        text: The word.
        code: Number or numbers of an ANSI escape sequence, such as ``31``.
        stream: Where the word will be written.
    """
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


console = Console()
