"""Where each kind of output goes, and when bars and colours appear."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest

from llmbind_cli.console import Console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    # pytest puts its own sys.stderr back between a fixture and its test.
    monkeypatch.setattr("llmbind_cli.console.sys", SimpleNamespace(stderr=stream))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_results_go_to_stdout_and_the_rest_to_stderr(capsys):
    console = Console()
    console.result("a")
    console.log("b")
    console.warn("c")
    console.error("d")
    captured = capsys.readouterr()
    assert captured.out == "a\n"
    assert captured.err == "b\nllmbind: warning: c\nllmbind: error: d\n"


def test_quiet_leaves_out_logs_only(capsys):
    console = Console()
    console.configure(quiet=True)
    console.result("a")
    console.log("b")
    console.warn("c")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a\n", "llmbind: warning: c\n")


@pytest.mark.parametrize(
    ("settings", "shown"), [({}, True), ({"quiet": True}, False), ({"json": True}, False)]
)
def test_bars_need_a_terminal_and_neither_quiet_nor_json(terminal, settings, shown):
    console = Console()
    console.configure(**settings)
    assert list(console.progress([1, 2, 3], desc="steps")) == [1, 2, 3]
    assert ("steps" in terminal.getvalue()) is shown


def test_no_bars_without_a_terminal(capsys):
    console = Console()
    console.configure()
    list(console.progress([1, 2, 3], desc="steps"))
    assert capsys.readouterr().err == ""
    assert os.environ["TQDM_DISABLE"] == os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_a_bar_can_be_moved_by_hand(terminal):
    console = Console()
    with console.progress(total=2, desc="fetch", unit="B") as bar:
        bar.update(2)
    assert "2/2" in terminal.getvalue()


@pytest.mark.parametrize(
    ("variable", "value", "coloured"),
    [("NO_COLOR", "1", False), ("TERM", "dumb", False), ("NO_COLOR", "", True)],
)
def test_colour_needs_a_terminal_that_wants_it(terminal, monkeypatch, variable, value, coloured):
    monkeypatch.setenv(variable, value)
    Console().error("too late")
    assert ("\x1b[" in terminal.getvalue()) is coloured
    assert "too late\n" in terminal.getvalue()
