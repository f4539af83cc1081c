"""The README's two commands: CI runs one of them, and both name what exists."""

from __future__ import annotations

import os
import re
import tomllib


def command_lines(root) -> list[str]:
    readme = (root / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(python3 -m venv .*)\n```$", readme, re.MULTILINE)


def test_the_readme_has_two_commands(root):
    run, test = command_lines(root)
    assert " llmbind generate" in run.replace("/", " ")
    assert "pytest" in test


def test_ci_runs_the_second_command_as_it_stands(root):
    script = root / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == command_lines(root)[1]


def test_every_dependency_is_pinned_within_its_range(root):
    """The constraints serve every extra and group, or a fresh machine gets untested versions."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for group in project["dependency-groups"].values():
        wanted += [requirement for requirement in group if isinstance(requirement, str)]
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in wanted} - {"llmbind"}
    pins = (root / "constraints/cpu.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([\w.-]+)==", pins, re.MULTILINE))
    assert names - pinned == set()
    assert "torch==2.13.0" in pins.splitlines()


def test_torchvision_and_torchaudio_are_nowhere(root):
    for file in ("pyproject.toml", "constraints/cpu.txt"):
        text = (root / file).read_text(encoding="utf-8")
        requirements = re.findall(r"^\s*\"?(torchvision|torchaudio)", text, re.MULTILINE)
        assert requirements == []
