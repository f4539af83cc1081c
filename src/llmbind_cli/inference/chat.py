"""``llmbind chat``: a conversation on a terminal, one turn, or a file of turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.errors import InputDataError, LlmbindError, UsageError
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.artifacts import ArtifactFolder
from llmbind_cli.inference.dispatch import dispatch, jobs_of_reply
from llmbind_cli.inference.generate import plan_requests, show
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.planner import Plan
from llmbind_cli.inference.requests import Request, read_requests, read_stdin
from llmbind_cli.inference.session import Session
from llmbind_cli.inference.streaming import ReplyPrinter

HELP = """\
/image FILE   attach a picture to your next message
/reset        forget the conversation
/save FILE    write the conversation as one JSON line
/help         this list
/quit         leave (so does Ctrl-D; Ctrl-C stops a reply)"""


def run_chat(
    *,
    prompt: str | None,
    images: Sequence[Path],
    out: Path,
    plan: bool,
    requests: str | None,
    generators: dict[str, str],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    options: ModelOptions,
) -> None:
    """Chat as the flags say; see ``commands/chat.md``.

    Raises:
        LlmbindError: Of the class whose exit code tells what went wrong.
    """
    if requests is not None and not plan:
        raise UsageError("chat --from needs --plan; `llmbind generate --from` makes the files")
    if prompt is None and requests is None and not sys.stdin.isatty():
        prompt = "-"
    if prompt == "-":
        prompt = read_stdin()
    if plan:
        if requests is not None:
            items = read_requests(requests)
        elif prompt is not None:
            items = [Request(id="turn-1", prompt=prompt, images=tuple(images))]
        else:
            raise UsageError("--plan needs a PROMPT, a pipe or --from")
        plan_requests(
            items,
            options=options,
            seed=seed,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )
        return
    session = Session(
        options.load(), max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    for image in images:
        session.attach(image)
    registry = options.generators(generators)
    turn = Turn(session, registry, out=out, seed=seed)
    if prompt is not None:
        turn.run(prompt, stream=not console.json)
    else:
        Repl(turn).run()


class Turn:
    """One message and what follows from it: the reply, then the files it calls for."""

    def __init__(
        self, session: Session, registry: GeneratorRegistry, *, out: Path, seed: int
    ) -> None:
        self.session = session
        self._registry = registry
        self._out = out
        self._seed = seed

    def run(self, prompt: str, *, stream: bool) -> None:
        """Answer, show the reply, and run its task calls.

        Raises:
            LlmbindError: The request could not be answered, or a call could not be carried out.
        """
        model = self.session.model
        printer = ReplyPrinter(model.tokenizer, model.token_table, _write) if stream else None
        try:
            plan = self.session.ask(prompt, on_token=printer)
        finally:
            if printer is not None:
                printer.finish()
        if plan.error is not None and not console.json:
            raise plan.error
        if plan.calls and plan.error is None:
            self._execute(plan)
        elif console.json:
            for line in plan.lines(model.name):
                console.result(line.to_json())
            if plan.error is not None:
                raise plan.error

    def _execute(self, plan: Plan) -> None:
        for call in plan.calls:
            self._registry.check(call.task)
        lines = dispatch(
            jobs_of_reply(
                plan.calls, item_id=plan.request.id, run_seed=self._seed, reply=plan.reply
            ),
            generators=self._registry,
            artifacts=ArtifactFolder(out=self._out),
            model=self.session.model.name,
            on_result=show,
        )
        for line in lines:
            if line.error is not None:
                raise line.error


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class Repl:
    """The loop on a terminal."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/reset": lambda _: self._turn.session.reset(),
            "/save": self._save,
            "/help": lambda _: console.log(HELP),
        }

    def run(self) -> None:
        """Read, answer, repeat, until Ctrl-D or ``/quit``."""
        import readline  # noqa: F401  # gives input() its line editing and history

        console.log(f"{self._turn.session.model.name}. /help lists the commands.")
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
        try:
            if name in self._commands:
                self._commands[name](argument.strip())
            elif text.startswith("/"):
                console.warn(f"no command {name}; /help lists them")
            else:
                self._turn.run(text, stream=True)
        except KeyboardInterrupt:
            console.log("stopped; the exchange is left out of the conversation")
        except LlmbindError as error:
            console.error(str(error))

    def _image(self, argument: str) -> None:
        path = Path(argument).expanduser()
        if not argument or not path.is_file():
            raise InputDataError(f"/image {argument}: no such file")
        self._turn.session.attach(path)
        console.log(f"attached {path.name}")

    def _save(self, argument: str) -> None:
        if not argument:
            raise InputDataError("/save needs a file name")
        path = Path(argument).expanduser()
        self._turn.session.save(path)
        console.log(f"saved {path}")
