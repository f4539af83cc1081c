"""Networks of a folder in transformers layout: read whole, or refused.

Nothing is fetched, no code of the folder is run, and no weight is initialised at random (fault 32).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmbind_cli.errors import IntegrityError

_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError)


def load_pretrained(
    kind: Any,
    folder: Path,
    *,
    what: str,
    part_of: Callable[[Any], Mapping[str, Any]] = lambda _: {},
    **options: Any,
) -> Any:
    """Load a network.

    Args:
        kind: A class of transformers with ``from_pretrained``.
        folder: ``config.json`` and safetensors weights.
        what: The network's name in messages.
        part_of: Given the folder's configuration, returns the options that take a part of a larger
            network.
        options: For ``from_pretrained``.

    Raises:
        IntegrityError: The weights are missing, incomplete or do not fit the configuration.
    """
    from transformers import AutoConfig

    with quiet_transformers():
        try:
            options |= part_of(AutoConfig.from_pretrained(folder, local_files_only=True))
            network, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
        except _UNREADABLE as error:
            raise IntegrityError(f"{folder}: {what} does not load: {error}") from error
    absent = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if absent:
        raise IntegrityError(
            f"{folder}: {len(absent)} weights of {what} are missing or of another shape, "
            f"the first: {absent[0]}"
        )
    return network


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from listing the other half of a file as weights that it did not use."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
