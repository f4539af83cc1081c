"""The model hub, played by a server on this machine: what is fetched, and its troubles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from llmbind_cli.errors import (
    IntegrityError,
    ModelNotFoundError,
    PolicyError,
    StorageError,
    TemporaryError,
    UsageError,
)
from llmbind_cli.weights import hub as client
from llmbind_cli.weights.cache import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = "hf:org/tiny@main"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses in seconds, noted instead of waited for."""
    noted: list[float] = []
    monkeypatch.setattr(client.time, "sleep", noted.append)
    return noted


@pytest.fixture
def model(hub: Any, safetensors_bytes: Callable[..., bytes]) -> Any:
    hub.files = {
        "config.json": json.dumps({"model_type": "llama"}).encode(),
        "model.safetensors": safetensors_bytes(),
        "pytorch_model.bin": b"pickled",
        "modeling.py": b"raise SystemExit(9)",
        "tokenizer.json": b"{}",
        "onnx/model.onnx": b"large",
    }
    return hub


def test_fetches_weights_configuration_and_tokenizer_only(model: Any) -> None:
    directory = resolve(SOURCE)
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    asked = len(model.requests)
    assert resolve(SOURCE) == directory
    assert resolve(SOURCE, offline=True) == directory
    assert len(model.requests) == asked, "a second use must not ask the hub"


def test_a_branch_keeps_the_commit_of_its_first_use(model: Any) -> None:
    directory = resolve(SOURCE)
    (directory / "tokenizer.json").unlink()  # so that the entry has to be fetched again
    model.requests.clear()
    assert resolve(SOURCE) == directory
    assert (directory / "tokenizer.json").exists()
    assert not any("revision/main" in path for path in model.requests)


def test_a_pinned_hash(model: Any, safetensors_bytes: Callable[..., bytes]) -> None:
    import hashlib

    right = hashlib.sha256(safetensors_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match="the pinned hash says " + "0" * 64):
        resolve(SOURCE, sha256="0" * 64)
    assert resolve(SOURCE, sha256=right).is_dir()
    with pytest.raises(IntegrityError, match="the pinned hash"):
        resolve(SOURCE, sha256="0" * 64)


def test_weights_altered_in_the_cache_are_refused(
    model: Any, safetensors_bytes: Callable[..., bytes]
) -> None:
    directory = resolve(SOURCE)
    weights = (directory / "model.safetensors").resolve()
    weights.chmod(0o644)
    weights.write_bytes(safetensors_bytes(2.0))
    with pytest.raises(IntegrityError, match=r"model\.safetensors: sha256 is .* first use"):
        resolve(SOURCE)


def test_a_file_unlike_what_the_hub_states_is_refused(
    model: Any, monkeypatch: pytest.MonkeyPatch, safetensors_bytes: Callable[..., bytes]
) -> None:
    answer = model.answer

    def swap(path: str) -> tuple[int, bytes, dict[str, str]]:
        status, body, headers = answer(path)
        if path.endswith("/model.safetensors"):
            body = safetensors_bytes(2.0)
        return status, body, headers

    monkeypatch.setattr(model, "answer", swap)
    with pytest.raises(IntegrityError, match="the Hub says"):
        resolve(SOURCE)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(model: Any, pauses: list[float], status: int) -> None:
    model.troubles = [status, status]
    assert resolve(SOURCE).is_dir()
    assert pauses[:2] == [1.0, 2.0]


def test_the_pause_that_the_hub_asks_for_is_kept_within_bounds(
    model: Any, pauses: list[float]
) -> None:
    model.retry_after = "7200"
    model.troubles = [429]
    assert resolve(SOURCE).is_dir()
    assert pauses[0] == 30.0


def test_lasting_trouble_ends(model: Any, pauses: list[float]) -> None:
    model.troubles = [503] * 100
    with pytest.raises(TemporaryError, match="the Hub answered 503"):
        resolve(SOURCE)
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert len(model.requests) == 5


def test_no_answer(pauses: list[float], hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = "http://127.0.0.1:9"  # the discard port
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", closed)
    with pytest.raises(TemporaryError, match="no answer from the Hub"):
        resolve(SOURCE)
    assert len(pauses) >= 4


def test_a_time_out(hub: Any, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    slept = time.monotonic

    def late(_: str) -> tuple[int, bytes, dict[str, str]]:
        end = slept() + 0.4
        while slept() < end:  # time.sleep only takes notes here
            pass
        return 200, b"{}", {}

    monkeypatch.setattr(hub, "answer", late)
    monkeypatch.setattr(client, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(client, "_PAUSES_S", ())
    with pytest.raises(TemporaryError, match=r"ReadTimeout"):
        resolve(SOURCE)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_no_repository_or_no_access(model: Any, pauses: list[float], status: int) -> None:
    model.troubles = [status] * 100  # no access stays no access
    with pytest.raises(ModelNotFoundError, match=rf"HTTP {status}.*hf auth login"):
        resolve(SOURCE)
    assert pauses == []


def test_a_missing_repository(hub: Any) -> None:
    with pytest.raises(ModelNotFoundError, match="hf:org/other@main: no such repository"):
        resolve("hf:org/other@main")


def test_a_name_that_the_hub_forbids(hub: Any) -> None:
    with pytest.raises(UsageError, match="not a name"):
        resolve("hf:org/a--b..c@main")


def test_a_full_disk(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device", "/cache/blob")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(StorageError, match="/cache/blob: No space left"):
        resolve(SOURCE)


def test_a_bug_is_not_hidden(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(ZeroDivisionError):
        resolve(SOURCE)


def test_remote_code_is_refused_before_the_weights_arrive(model: Any) -> None:
    config = {"model_type": "mystery", "auto_map": {"AutoModel": "modeling.Mystery"}}
    model.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(PolicyError, match="never runs"):
        resolve(SOURCE)
    assert not any(path.endswith("model.safetensors") for path in model.requests)


def test_pickled_weights_are_refused_before_they_arrive(model: Any) -> None:
    del model.files["model.safetensors"]
    with pytest.raises(IntegrityError, match="pickled weights can run code"):
        resolve(SOURCE)
    assert not any("resolve" in path for path in model.requests)


def test_pickled_weights_with_a_pinned_hash_are_converted(model: Any, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from llmbind_cli.weights.hashes import sha256_file

    torch.save({"a": torch.ones(3)}, tmp_path / "w.bin")
    del model.files["model.safetensors"]
    model.files["pytorch_model.bin"] = (tmp_path / "w.bin").read_bytes()
    directory = resolve(SOURCE, sha256=sha256_file(tmp_path / "w.bin"))
    assert torch.equal(load_file(directory / "model.safetensors")["a"], torch.ones(3))
    assert (directory / "config.json").exists()
    assert not (directory / "pytorch_model.bin").exists()


def test_offline_takes_what_another_program_fetched(model: Any) -> None:
    huggingface_hub.snapshot_download("org/tiny", revision="main")
    asked = len(model.requests)
    directory = resolve(SOURCE, offline=True)
    assert (directory / "model.safetensors").exists()
    assert len(model.requests) == asked


def test_offline_and_not_there(hub: Any) -> None:
    with pytest.raises(ModelNotFoundError, match="without --offline"):
        resolve(SOURCE, offline=True)
    assert hub.requests == []


def test_without_a_home_the_hub_cache_lies_in_ours(
    model: Any, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    for name in ("HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert resolve(SOURCE).is_relative_to(cache / "hub")
