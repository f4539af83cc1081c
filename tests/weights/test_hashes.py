"""Hashes and the check of safetensors headers."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbind_cli.errors import IntegrityError, ModelNotFoundError, UsageError
from llmbind_cli.weights.hashes import (
    check_safetensors,
    directory_digest,
    normalise_pin,
    sha256_file,
)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "a") == expected
    with pytest.raises(ModelNotFoundError, match="missing"):
        sha256_file(tmp_path / "missing")


def test_directory_digest_is_what_sha256sum_gives(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "b/x"]
    (tmp_path / "b").mkdir()
    for name in names:
        (tmp_path / name).write_text(name)
    ours = directory_digest({name: sha256_file(tmp_path / name) for name in reversed(names)})
    lines = subprocess.run(
        ["sha256sum", *sorted(names)], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    assert ours == hashlib.sha256(lines).hexdigest()


def test_directory_digest_of_one_file_is_its_own() -> None:
    assert directory_digest({"model.safetensors": "ab" * 32}) == "ab" * 32
    with pytest.raises(ValueError, match="without weight files"):
        directory_digest({})


def test_pins_are_normalised() -> None:
    assert normalise_pin(None) is None
    assert normalise_pin("sha256:" + "AB" * 32) == "ab" * 32
    with pytest.raises(UsageError, match="64 hexadecimal"):
        normalise_pin("abc")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.zeros(3, 5), "b": torch.ones(7, dtype=torch.int8), "c": torch.zeros(0)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_a_whole_file_passes(weights: Path) -> None:
    check_safetensors(weights)


def test_every_truncation_is_named(weights: Path, tmp_path: Path) -> None:
    content = weights.read_bytes()
    short = tmp_path / "short.safetensors"
    for length in range(len(content)):
        short.write_bytes(content[:length])
        with pytest.raises(IntegrityError, match=rf"short\.safetensors: truncated.*has {length}"):
            check_safetensors(short)
    with pytest.raises(IntegrityError, match=f"expected {len(content)} bytes"):
        check_safetensors(short)


def test_a_longer_file_is_refused(weights: Path) -> None:
    size = weights.stat().st_size
    with weights.open("ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError, match=f"too long: expected {size} bytes, has {size + 1}"):
        check_safetensors(weights)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1, 2]",
        b'{"a": 1}',
        b'{"a": {"data_offsets": [0]}}',
        b'{"a": {"data_offsets": ["x", "y"]}}',
        b'{"a": {"data_offsets": [4, 8]}}',
        b'{"a": {"data_offsets": [0, 8]}, "b": {"data_offsets": [4, 12]}}',
        b'{"a": {"data_offsets": [0, -8]}}',
    ],
)
def test_unsound_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(IntegrityError, match="not a sound safetensors header"):
        check_safetensors(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64))
def test_any_bytes_are_refused_or_sound(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.safetensors"
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        check_safetensors(path)


def test_an_absurd_header_length_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + json.dumps({}).encode())
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        check_safetensors(path)
