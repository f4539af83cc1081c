"""Shows pictures in the terminal, in the best way that it is known to speak.

What the terminal speaks is read from the environment: asking the terminal itself would wait for
an answer that may never come.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.inference.terminal import terminal_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

_SENT_SIDE_PX = 1024
_SIXEL_SIDE_PX = 320
_ROWS = 16
_BLOCK_COLUMNS = 48


class Way(Enum):
    """How a picture reaches the screen."""

    kitty = "kitty"
    iterm2 = "iterm2"
    sixel = "sixel"
    blocks = "blocks"


def terminal_way(environment: Mapping[str, str]) -> Way | None:
    """Return how the terminal shows true pictures; ``None`` where that is not known.

    Args:
        environment: The process environment.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("screen", "tmux")):
        return None  # a multiplexer keeps such escapes to itself; variables of its host remain
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return Way.kitty
    if program == "ghostty" or "KONSOLE_VERSION" in environment:
        return Way.kitty
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return Way.iterm2
    if term.startswith(("foot", "mlterm", "contour")) or program == "mintty" or "sixel" in term:
        return Way.sixel
    return None


class Preview:
    """Shows the pictures of one run.

    Args:
        wanted: ``True`` shows pictures in any case, as half blocks where the terminal speaks
            nothing better; ``None`` shows them only on a terminal that does; ``False`` never.
        environment: The process environment.
        is_terminal: Whether stdout is a terminal.
        write: Receives what is to be written.
    """

    def __init__(
        self,
        *,
        wanted: bool | None,
        environment: Mapping[str, str],
        is_terminal: bool,
        write: Callable[[str], None],
    ) -> None:
        self._wanted = wanted
        self._way = terminal_way(environment) if is_terminal else None
        self._is_terminal = is_terminal and environment.get("TERM") != "dumb"
        self._write = write

    @classmethod
    def on_stdout(cls, wanted: bool | None) -> Preview:
        """Return the preview of this process."""
        return cls(
            wanted=wanted,
            environment=os.environ,
            is_terminal=sys.stdout.isatty(),
            write=_write_stdout,
        )

    def show(self, path: Path, *, asked: bool = False) -> None:
        """Show a picture file, where pictures are shown.

        Args:
            path: The file.
            asked: The user asked for this very picture: show it, unless never is the rule.

        Raises:
            InputDataError: It is no picture that can be read.
        """
        if self._wanted is False:
            return
        way = self._way
        if way is None and (self._wanted or (asked and self._is_terminal)):
            way = Way.blocks
        if way is not None:
            self._write(encode(path, way, columns=_columns()) + "\n")


def encode(path: Path, way: Way, *, columns: int) -> str:
    """Return what to write for a picture file.

    Args:
        path: The file.
        way: How the terminal shows pictures.
        columns: Width of the terminal, in characters.

    Raises:
        InputDataError: It is no picture that can be read.
    """
    picture = read_picture(path)
    if way is Way.blocks:
        return terminal_pictures.half_blocks(_fit(picture, min(columns, _BLOCK_COLUMNS), _ROWS * 2))
    if way is Way.sixel:
        return terminal_pictures.sixel(_fit(picture, _SIXEL_SIDE_PX, _SIXEL_SIDE_PX))
    raw = path.read_bytes()
    if not raw.startswith(b"\x89PNG") or max(picture.size) > _SENT_SIDE_PX:
        # Over a slow line a large picture would block the terminal for long.
        picture.thumbnail((_SENT_SIDE_PX, _SENT_SIDE_PX))
        raw = terminal_pictures.png_bytes(picture)
    protocol = terminal_pictures.kitty if way is Way.kitty else terminal_pictures.iterm2
    return protocol(raw, rows=_ROWS)


def _fit(picture: Image, width: int, height: int) -> Image:
    """Scale a picture up or down until it touches a box, its sides in proportion."""
    from PIL import Image

    scale = min(width / picture.width, height / picture.height)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    # Few pixels blown up should look like the pixels they are.
    filtering = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize((size[0], size[1]), filtering)


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _write_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
