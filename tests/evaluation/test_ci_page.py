"""``docs/ci.md``: the workflow's and the cron job's commands run here as they stand there."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

GOOD, BAD = b"P2 4 1 255  255 255 255 0", b"P2 4 1 255  255 0 0 0"


def block(root, language: str) -> str:
    page = (root / "docs" / "ci.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture
def desk(root, tmp_path, environment):
    """A repository with masks, the page's recipe, and ``llmbind`` on the path."""
    program = tmp_path / "bin" / "llmbind"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{root / "src"}" exec "{sys.executable}" -m llmbind_cli "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    place = tmp_path / "srv"
    for side, content in (("made", GOOD), ("truth", GOOD)):
        (place / side).mkdir(parents=True)
        for item in ("cat", "dog"):
            (place / side / f"{item}.pgm").write_bytes(content)
    (place / "scores.toml").write_text(block(root, "toml"))
    return place


def run_step(script: str, place, *, variables):
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=place, env=variables, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=300, check=False,
    )  # fmt: skip


def short_environment(place) -> dict[str, str]:
    """What cron gives: no HOME, no terminal, no language."""
    return {"PATH": f"{place.parent / 'bin'}:/usr/bin:/bin"}


def steps_of(root):
    workflow = yaml.safe_load(block(root, "yaml"))
    (job,) = workflow["jobs"].values()
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
    return [step for step in job["steps"] if "run" in step and "pip install" not in step["run"]]


def play(root, place):
    """Run the workflow as GitHub does: after a failure only steps with ``if: always()``."""
    summary = place.parent / "summary.md"
    codes = {}
    for step in steps_of(root):
        if any(codes.values()) and step.get("if") != "always()":
            continue
        done = run_step(
            step["run"], place,
            variables=short_environment(place) | {"GITHUB_STEP_SUMMARY": str(summary)},
        )  # fmt: skip
        codes[step["name"]] = done.returncode
    return codes, summary.read_text() if summary.exists() else ""


def test_the_workflow_passes_compares_and_fails(root, desk):
    codes, summary = play(root, desk)
    assert codes == {"Score": 0, "Compare": 0, "Show": 0}
    assert "## llmbind eval" in summary
    (desk / "out").rename(desk / "baseline")
    (desk / "made" / "dog.pgm").write_bytes(b"P2 4 1 255  255 255 0 0")  # 5 of 6 pixels: 0.83
    codes, summary = play(root, desk)
    assert codes == {"Score": 0, "Compare": 4, "Show": 0}
    assert "1 of 1 gates failed" in summary
    (desk / "made" / "cat.pgm").write_bytes(BAD)
    codes, summary = play(root, desk)
    assert codes == {"Score": 4, "Show": 0}
    assert "**failed**" in summary


def test_the_cron_job_is_silent_when_all_is_well_and_tells_what_is_not(root, desk):
    script = block(root, "sh").replace("/srv/quality", str(desk))
    crontab = block(root, "crontab")
    assert re.search(r"^15 3 \* \* \* /srv/quality/nightly\.sh$", crontab, re.MULTILINE)
    done = run_step(script, desk, variables=short_environment(desk))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    latest = desk / "reports" / "latest"
    assert (latest / "report.html").is_file()
    assert json.loads((latest / "report.json").read_text())["gates"][0]["passed"]
    for item in ("cat", "dog"):
        (desk / "made" / f"{item}.pgm").write_bytes(BAD)
    done = run_step(script, desk, variables=short_environment(desk))
    assert done.returncode == 4
    assert "quality fell on" in done.stdout
    assert "must be at least 0.75" in done.stdout
    (desk / "made" / "cat.pgm").unlink()
    done = run_step(script, desk, variables=short_environment(desk))
    assert done.returncode == 65
    assert "nothing was scored on" in done.stdout
    assert "lacks 1 of the 2 ids" in done.stdout
