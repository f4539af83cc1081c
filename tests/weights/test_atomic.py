"""Writes that never show half a file or half a directory."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from llmbind_cli.errors import OutputError, StorageError
from llmbind_cli.weights import atomic
from llmbind_cli.weights.atomic import recover_directory, replace_directory, write_atomically


def test_writes_and_replaces_a_file(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)  # the longest name that file systems allow
    for content in (b"one", b"two"):
        write_atomically(target, lambda file, content=content: file.write(content))
        assert target.read_bytes() == content
    assert list(tmp_path.iterdir()) == [target]


def test_the_umask_decides_the_permissions(tmp_path: Path) -> None:
    earlier = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    finally:
        os.umask(earlier)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_writer_that_fails_leaves_the_earlier_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"earlier")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, write)
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: the kernel refuses in the same place."""
    target = tmp_path / "a"
    target.write_bytes(b"earlier")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from llmbind_cli.errors import StorageError\n"
        "from llmbind_cli.weights.atomic import write_atomically\n"
        "try:\n"
        "    write_atomically(Path(sys.argv[1]), lambda file: file.write(b'x' * 100_000))\n"
        "except StorageError as error:\n"
        "    sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)],
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(atomic.__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 74
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing/a"):
        write_atomically(tmp_path / "missing" / "a", lambda file: file.write(b"x"))


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="a: cannot be written"):
        write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_replaces_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target = tmp_path / "target"
    for content in ("one", "two"):
        staging = tmp_path / "staging"
        (staging / "sub").mkdir(parents=True)
        (staging / "sub" / "file").write_text(content)
        replace_directory(staging, target)
        assert (target / "sub" / "file").read_text() == content
        assert list(tmp_path.iterdir()) == [target]


def test_the_kernel_exchanges_directories_here(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").touch()
    if not atomic._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange directories")
    assert (tmp_path / "a" / "file").exists()


def test_a_kill_between_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target, staging = tmp_path / "target", tmp_path / "staging"
    for directory, content in ((target, "old"), (staging, "new")):
        directory.mkdir()
        (directory / "file").write_text(content)
    child = os.fork()
    if child == 0:
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda self, to: (rename(self, to), os.kill(os.getpid(), 9))
        )
        replace_directory(staging, target)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not target.exists()
    recover_directory(target)
    assert (target / "file").read_text() == "old"


def test_a_full_disk_keeps_the_earlier_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, staging = tmp_path / "target", tmp_path / "staging"
    target.mkdir()
    staging.mkdir()
    (staging / "file").touch()

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match="No space left"):
        replace_directory(staging, target)
    assert list(tmp_path.iterdir()) == [target]


def test_staging_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="beside"):
        replace_directory(tmp_path / "a" / "staging", tmp_path / "b" / "target")
