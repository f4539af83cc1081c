"""The manual pages show today's ``--help``, and each of their examples runs."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmbind_cli.recipes.locate import shared_folder

PAGES = sorted(shared_folder("commands").glob("*.md"))
FENCE = re.compile(r"^```console(?P<words>[^\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
NETWORKS = {"model": "embedded_base", "sight": "embedded_sight"}
"""What follows ``console`` where an example needs a network → the fixture that fetches it."""
RECIPE = """
[model]
base = "./base"
[[data]]
name = "talk"
kind = "conversations"
paths = ["talk.json"]
[train]
steps = 1
[output]
dir = "run"
"""
REQUESTS = '{"id": "1", "prompt": "please draw a red fox"}\n{"id": "2", "prompt": "hello"}\n'


@dataclass(frozen=True)
class Example:
    """One ``console`` block: commands, the lines they must write, and how they end."""

    commands: str
    output: list[str]
    exit_code: int
    networks: list[str]


def examples() -> list[object]:
    found: list[object] = []
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text(encoding="utf-8")), start=1):
            lines, words = match["body"].splitlines(), match["words"].split()
            exit_code = [word for word in words if word.startswith("exit=")]
            example = Example(
                commands="\n".join(line[2:] for line in lines if line.startswith("$ ")),
                output=[line for line in lines if not line.startswith("$ ")],
                exit_code=int(exit_code[0].removeprefix("exit=")) if exit_code else 0,
                networks=[NETWORKS[word] for word in words if word in NETWORKS],
            )
            found.append(pytest.param(example, id=f"{page.stem}-{number}"))
    return found


@pytest.fixture
def desk(tmp_path: Path, environment) -> dict[str, str]:
    """A folder with the files that the examples name, and ``llmbind`` on the path."""
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "requests.jsonl").write_text(REQUESTS, encoding="utf-8")
    program = tmp_path / "bin" / "llmbind"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmbind_cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    settings: dict[str, str] = environment()
    settings["PATH"] = f"{program.parent}:{settings['PATH']}"
    return settings


def test_each_command_has_a_page_with_an_example(root):
    commands = root / "src/llmbind_cli/commands"
    names = {path.stem for path in commands.glob("*.py")} - {"__init__", "flags", "generator_flags"}
    assert {page.stem for page in PAGES} == names
    for page in PAGES:
        assert FENCE.search(page.read_text(encoding="utf-8")), f"{page.name} has no example"


def test_usage_blocks_are_today_s_help(root):
    run = subprocess.run(
        [sys.executable, str(root / "docs/manual_usage.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("example", examples())
def test_example_runs(example: Example, desk, tmp_path, request):
    for network in example.networks:
        request.getfixturevalue(network)
    assert "llmbind" in example.commands
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.commands],
        cwd=tmp_path,
        env=desk,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == example.exit_code, run.stderr
    written = run.stdout + run.stderr
    for line in example.output:
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        assert re.search(f"^{pattern}$", written, re.MULTILINE), f"{line!r} not in:\n{written}"
