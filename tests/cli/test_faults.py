"""Errors, signals and closed pipes become exit codes and one line on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmbind_cli import app, errors
from llmbind_cli.console import console


def all_errors() -> list[type[errors.LlmbindError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.LlmbindError)
    ]


@pytest.fixture
def failing_command(monkeypatch):
    """Makes the application raise, in place of running a command."""

    def fail(error: BaseException) -> int:
        def run(**_options: object) -> None:
            raise error

        monkeypatch.setattr(app, "app", run)
        return app.main([])

    return fail


@pytest.mark.parametrize("kind", all_errors())
def test_each_error_class_has_its_exit_code_and_one_line(failing_command, capsys, kind):
    assert failing_command(kind("x.png: too large")) == kind.exit_code
    captured = capsys.readouterr()
    assert captured.err == "llmbind: error: x.png: too large\n"
    assert captured.out == ""


def test_the_documented_codes_are_those_of_the_classes(root):
    page = (root / "docs/exit-codes.md").read_text(encoding="utf-8")
    documented = {int(row.split("|")[1]) for row in page.splitlines() if row[2:3].isdigit()}
    assert documented == {kind.exit_code for kind in all_errors()} | {0, 1, 130, 143}


def test_json_keeps_an_error_on_one_line(failing_command, capsys):
    console.configure(json=True)
    failing_command(errors.ConfigurationError("x.toml: 2 errors\n  a\n  b"))
    assert capsys.readouterr().err == "llmbind: error: x.toml: 2 errors a b\n"


def test_a_bug_is_one_line_that_says_where_to_report(failing_command, capsys):
    assert failing_command(KeyError("gate\nproj")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "KeyError" in error
    assert "report" in error


def test_debug_shows_the_traceback(failing_command, capsys):
    console.configure(debug=True)
    assert failing_command(KeyError("gate")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_74(failing_command, capsys):
    assert failing_command(OSError(28, "No space left on device")) == 74
    assert "No space left" in capsys.readouterr().err


def test_another_system_error_is_a_bug(failing_command):
    assert failing_command(PermissionError(13, "Permission denied")) == 1


def test_an_interrupt_is_130(failing_command):
    assert failing_command(KeyboardInterrupt()) == 130


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_runs_the_cleanup(environment, sent, code):
    program = (
        "import os, sys, time\n"
        "from llmbind_cli import app\n"
        "@app.app.command()\n"
        "def work():\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(30)\n"
        "    finally:\n"
        "        print('cleaned', flush=True)\n"
        "sys.exit(app.main(['work']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment(), stdout=-1, stderr=-1, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (code, "cleaned\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "write-result", "leave-in-buffer", "write-much"])
def test_a_closed_pipe_is_quiet(environment, command, unbuffered):
    """The reader is gone before Typer, a command, or the last flush of all writes anything."""
    end = run_on_a_closed_pipe(environment(PYTHONUNBUFFERED=unbuffered), command)
    assert end == (0, "")


def test_a_failure_keeps_its_code_on_a_closed_pipe(environment):
    end = run_on_a_closed_pipe(environment(), "leave-in-buffer-and-fail")
    assert end == (3, "llmbind: error: one of two failed\n")


def run_on_a_closed_pipe(environment: dict[str, str], command: str) -> tuple[int, str]:
    """Runs one of a few commands once nobody can read its stdout."""
    program = (
        "import sys\n"
        "from llmbind_cli import app\n"
        "from llmbind_cli.console import console\n"
        "from llmbind_cli.errors import PartialFailure\n"
        "@app.app.command()\n"
        "def write_result():\n"
        "    console.result('x')\n"
        "@app.app.command()\n"
        "def leave_in_buffer():\n"
        "    sys.stdout.write('x')\n"
        "@app.app.command()\n"
        "def write_much():\n"
        "    sys.stdout.write('x' * 300_000)\n"
        "@app.app.command()\n"
        "def leave_in_buffer_and_fail():\n"
        "    sys.stdout.write('x')\n"
        "    raise PartialFailure('one of two failed')\n"
        "sys.stdin.read()\n"
        f"sys.exit(app.main([{command!r}]))\n"
    )
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    os.close(reader)
    _, error = process.communicate("", timeout=20)
    return process.returncode, error


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_empty_ones(environment, tmp_path, closed):
    """Some schedulers start a job without them; no file of the run may take their place."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from llmbind_cli import app\n"
        "from llmbind_cli.console import console\n"
        "@app.app.command()\n"
        "def work():\n"
        "    with Path('made').open('w') as made:\n"
        "        assert made.fileno() > 2\n"
        "        console.log('a log'); console.result('a result')\n"
        "        made.write(f'{sys.stdin.buffer.read()} {console.shows_bars}')\n"
        "sys.exit(app.main(['work']))\n"
    )
    run = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program],
        env=environment(),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ("" if " >&-" in f" {closed}" else "a result\n")
    assert run.stderr == ("" if "2>&-" in closed else "a log\n")
    assert (tmp_path / "made").read_text() == "b'' False"


def test_a_prompt_on_a_closed_stdin_is_bad_input(environment):
    run = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m llmbind_cli generate - <&-', sys.executable],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, "the prompt on stdin is empty" in run.stderr) == (65, True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_the_encoding_of_stdout_lacks_is_escaped(environment, encoding):
    """As JSON escapes it, which has pairs for what lies beyond U+FFFF."""
    text = "a \xe9 \u72d0 \U0001f98a \udcff"
    program = (
        "import sys\n"
        "from llmbind_cli import app\n"
        "from llmbind_cli.console import console\n"
        "@app.app.command()\n"
        "def work():\n"
        f"    console.result({text!a})\n"
        "sys.exit(app.main(['work']))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONIOENCODING=encoding),
        check=False,
        capture_output=True,
    )
    assert (run.returncode, run.stderr) == (0, b"")
    printed = run.stdout.decode(encoding)
    assert printed.isascii() == (encoding == "ascii")
    assert json.loads(f'"{printed.rstrip()}"') == text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_results_that_find_no_room_are_74(llmbind):
    with Path("/dev/full").open("w") as full:
        run = llmbind("--version", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert run.returncode == 74
    assert run.stderr.count("\n") == 1
    assert "No space left" in run.stderr


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [("segment", 65, "photo.png"), ("edit", 10, "--generator edit=")],
)
def test_what_a_command_cannot_do_is_one_line(llmbind, tmp_path, command, code, reason):
    """No picture to cut from, and no pipeline that edits."""
    image = tmp_path / "photo.png"
    image.write_bytes(b"any")
    run = llmbind(command, str(image), "the dog", "--json")
    assert (run.returncode, run.stdout) == (code, "")
    assert run.stderr.count("\n") == 1
    assert reason in run.stderr


@pytest.mark.parametrize("command", ["segment", "edit"])
def test_an_empty_instruction_is_bad_input(llmbind, tmp_path, command):
    image = tmp_path / "photo.png"
    image.write_bytes(b"any")
    assert llmbind(command, str(image), " ").returncode == 65


def test_eval_says_what_is_wrong_with_its_recipe(llmbind, tmp_path):
    recipe = tmp_path / "scores.toml"
    recipe.write_text("a =", encoding="utf-8")
    broken = llmbind("eval", str(recipe))
    assert broken.returncode == 78
    assert f"{recipe}:1:4: not valid TOML" in broken.stderr
    recipe.write_text("a = 1", encoding="utf-8")
    unknown = llmbind("eval", str(recipe))
    assert unknown.returncode == 78
    assert f"{recipe}: 2 errors\n  score is required\n  unknown key a" in unknown.stderr
    assert llmbind("eval", str(tmp_path / "none.toml")).returncode == 78


def test_no_home_and_cron_s_short_environment(llmbind, root):
    run = llmbind("--version", env={"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin:/bin"})
    assert (run.returncode, run.stderr) == (0, "")
