"""Hashes of weight files, and the check that a safetensors file is whole.

The digest of a model directory pins its weights with one value:

* one weight file: the SHA-256 of that file, as `sha256sum` and the Hub's pages show it;
* several: the SHA-256 of the lines `HASH  NAME` that `sha256sum` prints for them, sorted by name
  in byte order, names relative to the directory with `/` between folders.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from llmbind_cli.errors import IntegrityError, ModelNotFoundError, UsageError

_MAX_HEADER_BYTES = 100_000_000  # the bound of the safetensors format
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


def sha256_file(path: Path) -> str:
    """Hashes a file.

    Args:
        path: The file.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        ModelNotFoundError: The file cannot be opened or read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelNotFoundError(f"{path}: cannot be read: {error.strerror}") from error


def directory_digest(digests: Mapping[str, str]) -> str:
    """Pins the weight files of a directory with one value; the module's top defines it.

    Args:
        digests: Name of each weight file, relative to the directory, and its SHA-256.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        ValueError: There is no file.
    """
    if not digests:
        raise ValueError("a directory without weight files has no digest")
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = sorted((name.encode(errors="surrogateescape"), digests[name]) for name in digests)
    return hashlib.sha256(b"".join(d.encode() + b"  " + n + b"\n" for n, d in lines)).hexdigest()


def normalise_pin(sha256: str | None) -> str | None:
    """Checks the form of a pinned hash.

    Args:
        sha256: 64 hexadecimal digits, with or without `sha256:` before them, or None.

    Returns:
        The digits in lower case, or None.

    Raises:
        UsageError: It has another form.
    """
    if sha256 is None:
        return None
    digits = sha256.lower().removeprefix("sha256:")
    if _HEX_DIGEST.fullmatch(digits) is None:
        raise UsageError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    return digits


def require_digest(subject: str, *, expected: str, actual: str, origin: str, advice: str) -> None:
    """Refuses weights whose hash is another one.

    Args:
        subject: What was hashed, for the message.
        expected: The hash it should have.
        actual: The hash it has.
        origin: Who says so, for the message.
        advice: What to do about it, for the message.

    Raises:
        IntegrityError: The two differ.
    """
    if expected != actual:
        raise IntegrityError(
            f"{subject}: sha256 is {actual}, but {origin} says {expected}; {advice}"
        )


def check_safetensors(path: Path) -> None:
    """Checks that a safetensors file has a sound header and all of its bytes.

    Only the header is read, so the check costs the same for any size.

    Args:
        path: The file.

    Raises:
        ModelNotFoundError: The file cannot be opened.
        IntegrityError: It is truncated, longer than its header says, or no safetensors file. The
            message names the file, its size and the size that the header asks for.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
            header = file.read(length) if length is not None and length < _MAX_HEADER_BYTES else b""
    except OSError as error:
        raise ModelNotFoundError(f"{path}: cannot be read: {error.strerror}") from error
    if length is None:
        raise IntegrityError(f"{path}: truncated: expected at least 8 bytes, has {size}")
    if length >= _MAX_HEADER_BYTES:
        raise IntegrityError(f"{path}: not a safetensors file ({size} bytes)")
    if len(header) < length:
        raise IntegrityError(f"{path}: truncated: expected at least {8 + length} bytes, has {size}")
    expected = 8 + length + _content_bytes(path, header)
    if size != expected:
        state = "truncated" if size < expected else "too long"
        raise IntegrityError(
            f"{path}: {state}: expected {expected} bytes, has {size}; fetch or save it again"
        )


def _content_bytes(path: Path, header: bytes) -> int:
    """Returns the number of bytes of all tensors, after checking that they lie without gaps."""
    try:
        tensors = json.loads(header)
        spans = sorted(
            tuple(entry["data_offsets"])
            for name, entry in tensors.items()
            if name != "__metadata__"
        )
        end = 0
        for start, stop in spans:
            if start != end or stop < start:
                raise ValueError(f"tensors overlap or leave a gap at byte {start}")
            end = stop
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: not a sound safetensors header: {error}") from error
    return int(end)
