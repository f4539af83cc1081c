"""Replies on a terminal as they are emitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmbind_cli.tokens import TokenTable


class ReplyPrinter:
    """Turns emitted ids into text, a task call shown as ``[image: prompt]``.

    Args:
        tokenizer: The bundle's tokenizer.
        table: The bundle's token table.
        write: Receives each new piece of text.
    """

    def __init__(self, tokenizer: Any, table: TokenTable, write: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._table = table
        self._write = write
        self._span: list[int] = []
        self._shown = ""
        self._blank = True

    def __call__(self, index: int) -> None:
        """Take the next id of the reply."""
        opened, closed = self._table.openers.get(index), self._table.closers.get(index)
        if opened is None and closed is None:
            self._span.append(index)
            self._show(final=False)
            return
        self._show(final=True)
        self._span, self._shown = [], ""
        if closed is not None:
            self._write("]")
        elif opened is not None:
            space = "" if self._blank else " "
            self._write(f"{space}[{opened.task}" + (":" if opened.close else "]"))
        self._blank = False

    def finish(self) -> None:
        """Write what is still held back, and end the line."""
        self._show(final=True)
        self._write("\n")

    def _show(self, *, final: bool) -> None:
        text = self._tokenizer.decode(self._span, clean_up_tokenization_spaces=False)
        if not final and text.endswith("\N{REPLACEMENT CHARACTER}"):
            return  # a character whose bytes are not all there yet
        new = text[len(self._shown) :]
        if self._blank:
            new = new.lstrip()
        if new:
            self._write(new)
            self._blank = False
        self._shown = text
