"""The loop of ``llmbind chat`` on a terminal: messages, and commands that start with a slash."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.data.pictures import is_there
from llmbind_cli.errors import InputDataError, LlmbindError, UsageError
from llmbind_cli.inference.chat.history import HistoryEntry
from llmbind_cli.inference.chat.journal import open_journal
from llmbind_cli.inference.chat.turn import Turn
from llmbind_cli.inference.terminal.preview import Preview

HELP = """\
/image FILE     attach a picture to your next message
/list           list the pictures, clips and sounds of this conversation
/use N          let the next edit act on picture N
/open N         say where number N lies, and show it
/save FILE      write the conversation as one JSON line
/session FILE   keep the conversation in FILE from now on; without FILE, say where it is kept
/reset          forget the conversation
/help           this list
/quit           leave (so does Ctrl-D; Ctrl-C stops a reply)"""

_LONGEST_PROMPT = 48


class Repl:
    """The loop on a terminal.

    Args:
        turn: Answers the messages.
        preview: Shows pictures.
        resources: Keeps a session file open that is named on the way.
    """

    def __init__(self, turn: Turn, *, preview: Preview, resources: ExitStack) -> None:
        self._turn = turn
        self._session = turn.session
        self._preview = preview
        self._resources = resources
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/list": self._list,
            "/use": self._use,
            "/open": self._open,
            "/save": self._save,
            "/session": self._keep,
            "/reset": self._reset,
            "/help": lambda _: console.log(HELP),
        }

    def run(self) -> None:
        """Read, answer, repeat, until Ctrl-D or ``/quit``."""
        import readline  # noqa: F401  # gives input() its line editing and history

        console.log(f"{self._session.model.name}. /help lists the commands.")
        if self._session.num_turns:
            console.log(self._summary())
        while True:
            try:
                text = input("> ").strip()
            except EOFError:
                _write("\n")
                return
            except KeyboardInterrupt:
                _write("\n")
                continue
            if text == "/quit":
                return
            if text:
                self._take(text)

    def _take(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        turns = self._session.num_turns
        try:
            if name in self._commands:
                self._commands[name](argument.strip())
            elif text.startswith("/"):
                near = difflib.get_close_matches(name, [*self._commands, "/quit"], n=1)
                hint = f"did you mean {near[0]}?" if near else "/help lists them"
                console.warn(f"no command {name}; {hint}")
            else:
                self._turn.run(text, stream=True)
        except KeyboardInterrupt:
            kept = self._session.num_turns > turns
            console.log(
                "stopped; what was not made yet is left out"
                if kept
                else "stopped; the exchange is left out of the conversation"
            )
        except LlmbindError as error:
            console.error(str(error))

    def _image(self, argument: str) -> None:
        path = _path(argument)
        if not argument or not is_there(path):
            raise InputDataError(f"/image {argument}: no such file")
        entry = self._session.attach(path)
        console.log(f"attached {path.name} as #{entry.number}")

    def _list(self, _argument: str) -> None:
        history = self._session.history
        if not history.entries:
            console.log("no files yet")
        in_hand = history.in_hand
        for entry in history.entries:
            mark = "*" if entry == in_hand else " "
            prompt = entry.prompt
            if len(prompt) > _LONGEST_PROMPT:
                prompt = prompt[: _LONGEST_PROMPT - 1] + "…"
            origin = f" of #{entry.source}" if entry.source is not None else ""
            console.result(
                f"{mark} #{entry.number:<3} {entry.task + origin:<11} "
                f"{prompt:<{_LONGEST_PROMPT}} {entry.path}"
            )

    def _use(self, argument: str) -> None:
        entry = self._session.use(_number("/use", argument))
        console.log(f"the next edit acts on #{entry.number} ({entry.path.name})")

    def _open(self, argument: str) -> None:
        entry = self._session.history.find(_number("/open", argument))
        console.result(str(entry.path))
        if entry.is_picture:
            self._preview.show(entry.path, asked=True)

    def _save(self, argument: str) -> None:
        if not argument:
            raise InputDataError("/save needs a file name")
        path = _path(argument)
        self._session.save(path)
        console.log(f"saved {path}")

    def _keep(self, argument: str) -> None:
        journal = self._session.journal
        if not argument:
            console.log(f"kept in {journal.path}" if journal is not None else "kept nowhere")
        elif journal is not None:
            raise UsageError(f"the conversation is kept in {journal.path} already")
        else:
            path = _path(argument)
            with ExitStack() as opened:
                self._session.keep(opened.enter_context(open_journal(path)))
                self._resources.push(opened.pop_all())
            console.log(f"kept in {path}")

    def _reset(self, _argument: str) -> None:
        self._session.reset()
        console.log("a new conversation")

    def _summary(self) -> str:
        turns, files = self._session.num_turns, len(self._session.history.entries)
        said = "1 exchange" if turns == 1 else f"{turns} exchanges"
        held = "no files" if not files else "1 file" if files == 1 else f"{files} files"
        return f"This conversation goes on after {said} and {held}; /list shows them."


def show_numbered(entry: HistoryEntry) -> None:
    """Print a file that was made, with the number it has in the conversation."""
    console.result(f"#{entry.number} {entry.path}")


def _path(argument: str) -> Path:
    """Read a file name as people paste it: with a tilde, quotation marks or escaped spaces.

    Raises:
        InputDataError: No file can have this name.
    """
    if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"":
        argument = argument[1:-1]
    try:
        path = Path(argument).expanduser()
        if not path.exists() and "\\ " in argument:
            path = Path(argument.replace("\\ ", " ")).expanduser()
    except (OSError, RuntimeError) as error:
        # Too long, or the home of somebody who is not there.
        why = error.strerror if isinstance(error, OSError) else error
        raise InputDataError(f"{argument}: cannot be used as a file name: {why}") from error
    return path


def _number(command: str, argument: str) -> int:
    text = argument.removeprefix("#")
    if not text.isdecimal():
        raise UsageError(f"{command} needs a number; /list shows them")
    return int(text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
