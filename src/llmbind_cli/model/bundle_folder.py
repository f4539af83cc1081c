"""Where a bundle lies and which one it is, told without loading anything of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llmbind_cli.bundles import embedded_bundle
from llmbind_cli.model.config import ADAPTER_DIR, CONFIG_NAME, HEADS_NAME
from llmbind_cli.weights import cache
from llmbind_cli.weights.hashes import sha256_file

EMBEDDED = "embedded"


def locate_bundle(source: str, *, offline: bool = False) -> Path:
    """Return the directory of a bundle.

    Args:
        source: ``embedded``, a directory, or any source of the weights room.
        offline: Take it from the cache or fail at once.

    Raises:
        ModelNotFoundError: This build has no embedded bundle, or the source is neither cached nor
            to be fetched.
    """
    if source == EMBEDDED:
        return embedded_bundle()
    if Path(source).is_dir() or ":" not in source:
        return Path(source)
    return cache.resolve(source, offline=offline)


def shaping_files(bundle: Path) -> list[Path]:
    """Return the files whose content makes a bundle the one it is."""
    adapter = sorted((bundle / ADAPTER_DIR).iterdir())
    return [bundle / CONFIG_NAME, bundle / HEADS_NAME, *adapter]


def fingerprint(bundle: Path) -> str:
    """Return a sha256 over the bundle's configuration and weights, 64 hex digits."""
    digest = hashlib.sha256()
    for path in shaping_files(bundle):
        digest.update(f"{path.relative_to(bundle)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
