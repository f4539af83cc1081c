"""The checks, one session each: ``nox`` runs all of them, ``nox -s tests`` runs one."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

CONSTRAINTS = "constraints/cpu.txt"
GROUPS = nox.project.load_toml("pyproject.toml")


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group of pyproject.toml.

    Args:
        name: The group.

    Returns:
        Requirement strings for pip.
    """
    return nox.project.dependency_groups(GROUPS, name)


def install_tested(session: nox.Session, *groups: str) -> None:
    """Installs llmbind from the checkout, with the tested versions, and some groups.

    Args:
        session: The session to install into.
        groups: Names of dependency groups.
    """
    requirements = [requirement for name in groups for requirement in group(name)]
    session.install("-c", CONSTRAINTS, "-e", ".", *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Form and style."""
    session.install("-c", CONSTRAINTS, *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Types, strictly."""
    install_tested(session, "types")
    session.install("-c", CONSTRAINTS, "nox")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """The layers: imports run downward only."""
    install_tested(session, "imports")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """The default test run: offline, on the CPU. Arguments after ``--`` go to pytest."""
    install_tested(session, "test")
    session.run("pytest", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def parity(session: nox.Session) -> None:
    """Only the tests that compare numbers with an independent reference."""
    install_tested(session, "test")
    session.run("pytest", "-k", "_equal", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def package(session: nox.Session) -> None:
    """Builds sdist and wheel, and looks at the wheel from an environment without the checkout.

    Only what ``--help`` needs is installed beside it, so the session takes seconds.
    """
    session.install("-c", CONSTRAINTS, *group("package"), "typer", "tqdm")
    dist = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    (wheel,) = dist.glob("*.whl")
    session.install("--no-deps", "--force-reinstall", str(wheel))
    session.chdir(dist)
    session.run("llmbind", "--version")
    session.run("llmbind", "--help", silent=True)
    session.run("python", "-c", LOOK_INSIDE)
    session.log(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")


LOOK_INSIDE = """
from llmbind_cli.recipes.locate import shared_folder
pages, recipes = shared_folder("commands"), shared_folder("recipes")
assert "_share" in pages.parts, pages
assert len(list(pages.glob("*.md"))) == 6, pages
assert list(recipes.rglob("*.toml")), recipes
"""


@nox.session
def docs(session: nox.Session) -> None:
    """The manual pages show today's ``--help``, and their examples run."""
    install_tested(session, "test")
    session.run("python", "docs/manual_usage.py", "--check")
    session.run("pytest", "tests/cli/test_manual_pages.py", env={"OMP_NUM_THREADS": "1"})
