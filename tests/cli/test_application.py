"""The command line as a whole: help, version, wrong usage, completion."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmbind_cli import __version__

COMMANDS = ["train", "chat", "generate", "segment", "edit", "eval"]
COMMON_FLAGS = ["--model", "--device", "--dtype", "--seed", "--json", "--quiet", "--offline"]


def test_help_names_the_six_commands(llmbind):
    run = llmbind("--help")
    assert run.returncode == 0
    listed = run.stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines()[1:7]] == COMMANDS
    assert run.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_flags(llmbind, command):
    text = llmbind(command, "--help").stdout
    assert [flag for flag in COMMON_FLAGS if f" {flag}" not in text] == []


def test_version_goes_to_stdout(llmbind):
    run = llmbind("--version")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"llmbind {__version__}\n", "")


def test_no_command_shows_the_help_on_stderr(llmbind):
    run = llmbind()
    assert (run.returncode, run.stdout) == (2, "")
    assert "Commands:" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["genrate"], "'generate'"),
        (["--versoin"], "--version"),
        (["generate", "--jsn", "a fox"], "--json"),
        (["train", "--dryrun", "x.toml"], "--dry-run"),
    ],
)
def test_a_misspelt_word_names_the_nearest_one(llmbind, arguments, nearest):
    run = llmbind(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("Usage: llmbind")
    assert nearest in run.stderr


@pytest.mark.parametrize(
    ("arguments", "flag", "allowed"),
    [
        (["generate", "--max-new-tokens", "0", "a fox"], "--max-new-tokens", "1<=x<=4096"),
        (["generate", "--batch-size", "0", "a fox"], "--batch-size", "1<=x<=1024"),
        (["chat", "--temperature", "-1", "hello"], "--temperature", "0.0<=x<=2.0"),
        (["chat", "--temperature", "nan", "hello"], "--temperature", "is no number"),
        (["generate", "--wait", "nan", "a fox"], "--wait", "is no number"),
        (["generate", "--guidance", "nan", "a fox"], "--guidance", "0 to 100"),
        (["generate", "--from", ""], "--from", "is empty"),
        (["generate", "--plan", "--from", "x.jsonl", "--dry-run"], "--plan", "--dry-run"),
        (["generate", "--plan", "--merge", "."], "--plan", "--merge"),
        (["generate", "--modality", "smell", "a fox"], "--modality", "'image'"),
        (["generate", "--seed", "-1", "a fox"], "--seed", f"0<=x<={2**63 - 1}"),
        (["train", "x.toml", "--seed", f"{2**63}"], "--seed", f"0<=x<={2**63 - 1}"),
        (["segment", "x.png", "y", "--device", "tpu"], "--device", "'cuda'"),
        (["generate", "--generator", "image", "a fox"], "--generator", "image=PATH_OR_ID"),
        (["generate", "--from", "x.jsonl", "a fox"], "--from", "PROMPT"),
        (["edit", "no-such.png", "make it red"], "IMAGE", "does not exist"),
        (["edit"], "IMAGE", "give IMAGE and INSTRUCTION"),
    ],
)
def test_a_bad_value_names_flag_and_range(llmbind, arguments, flag, allowed):
    run = llmbind(*arguments)
    assert run.returncode == 2, run.stderr
    assert flag in run.stderr
    assert allowed in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(llmbind, shell, environment):
    run = llmbind(env=environment(_LLMBIND_COMPLETE=f"source_{shell}"))
    assert run.returncode == 0
    assert "_LLMBIND_COMPLETE" in run.stdout
    assert f"complete_{shell}" in run.stdout


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", {"COMP_WORDS": "llmbind ge", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "llmbind ge"}),
        (
            "fish",
            {"_TYPER_COMPLETE_ARGS": "llmbind ge", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        ),
    ],
)
def test_completion_finishes_a_command(llmbind, environment, shell, words):
    run = llmbind(env=environment(_LLMBIND_COMPLETE=f"complete_{shell}", **words))
    assert "generate" in run.stdout
    assert "segment" not in run.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"]])
def test_help_loads_nothing_heavy(environment, arguments):
    """None of the packages that take long to import, and not all of the code either."""
    program = (
        "import sys\n"
        "from llmbind_cli.app import main\n"
        f"main({arguments!r})\n"
        "heavy = {'torch', 'numpy', 'transformers', 'peft', 'pydantic', 'diffusers', 'PIL',"
        " 'tqdm', 'rich', 'huggingface_hub', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == "[]\n"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_takes_at_most_150_ms_of_cpu_where_typer_takes_60(cpu_seconds, argument):
    """Best of five, as other work on the machine can only add to a run.

    150 ms is the bar that the project sets, for cores that import Typer in 60 ms: two and a half
    times that. So it is, measured beside it, on any core: a faster one must do better, and one
    that takes 155 ms for Typer alone took 230. Training processes beside both can carry a run over
    it: a missed bar is measured again a little later.
    """
    for pause_s in (0, 10, 20):
        time.sleep(pause_s)
        best_s = min(cpu_seconds("-m", "llmbind_cli", argument) for _ in range(5))
        typer_s = min(cpu_seconds("-c", "import typer") for _ in range(5))
        if best_s <= 2.5 * typer_s:
            break
    assert best_s <= 2.5 * typer_s


def test_commands_import_typer_and_the_standard_library_only(root: Path):
    allowed = sys.stdlib_module_names | {"typer"}
    light = {"commands", "console", "errors"}
    for module in sorted((root / "src/llmbind_cli/commands").glob("*.py")):
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            else:
                continue
            for name in names:
                package, _, rest = name.partition(".")
                own = package == "llmbind_cli" and rest.partition(".")[0] in light
                assert own or package in allowed, f"{module.name} imports {name} at module level"
