"""The bundle that comes with the package."""

from __future__ import annotations

from pathlib import Path

from llmbind_cli.errors import ModelNotFoundError


def embedded_bundle() -> Path:
    """Return the directory of the embedded bundle.

    Raises:
        ModelNotFoundError: This copy of the package was built without it.
    """
    directory = Path(__file__).parent / "embedded"
    if not (directory / "llmbind.json").is_file():
        raise ModelNotFoundError(
            "this build has no embedded bundle; train one with `llmbind train` "
            "and name it with --model DIR"
        )
    return directory
