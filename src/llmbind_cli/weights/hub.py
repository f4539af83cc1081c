"""Takes a model from the Hugging Face Hub: safetensors, configuration and tokenizer, never code.

Files land in the Hub's own cache, which other programs share, and are used from there.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from llmbind_cli.console import console
from llmbind_cli.errors import LlmbindError, ModelNotFoundError, TemporaryError, UsageError
from llmbind_cli.weights.atomic import storage_error
from llmbind_cli.weights.layout import (
    list_files,
    refuse_remote_code,
    require_weights,
    select_companions,
    select_weights,
    sole_pickle,
)
from llmbind_cli.weights.sources import HubSource

Result = TypeVar("Result")

_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
_LONGEST_PAUSE_S = 30.0
_TIMEOUT_S = 15.0
_PASSING_STATUS = frozenset({408, 425, 429})


@dataclass(frozen=True, kw_only=True)
class HubSnapshot:
    """Files of a repository on this machine.

    Attributes:
        directory: Where they are.
        commit: The commit they belong to.
        files: Names of the files that make the model, relative to `directory`.
        weights: Those of them that hold weights: safetensors, or one pickled file.
        published: SHA-256 of files as the Hub states it, where it does.
    """

    directory: Path
    commit: str
    files: tuple[str, ...]
    weights: tuple[str, ...]
    published: Mapping[str, str] = field(default_factory=dict)


def fetch_from_hub(
    source: HubSource, *, cache_dir: Path | None, commit: str | None, pickle_allowed: bool
) -> HubSnapshot:
    """Fetches what a model needs.

    Args:
        source: The repository and revision.
        cache_dir: Folder of the Hub's cache, or None for the place that all programs share.
        commit: The commit that the revision meant at first use, if there was one.
        pickle_allowed: Whether one pickled weight file may be fetched where safetensors lack.

    Returns:
        The files, complete.

    Raises:
        ModelNotFoundError: No such repository or revision, or no access to it.
        TemporaryError: The Hub answered "too many requests" or a server error, or not at all,
            five times in a row.
        PolicyError: The model needs code from the repository.
        IntegrityError: The repository has pickled weights only.
        StorageError: The disk is full or failing.
    """
    from huggingface_hub import HfApi, snapshot_download

    console.log(f"looking up {source}")
    info = _with_patience(
        source,
        lambda: HfApi().model_info(
            source.repository,
            revision=commit or source.revision,
            files_metadata=True,
            timeout=_TIMEOUT_S,
        ),
    )
    siblings = info.siblings or []
    names = [sibling.rfilename for sibling in siblings]
    weights = select_weights(names)
    if pickle_allowed and (pickled := sole_pickle(names)) is not None:
        weights = [pickled]
    require_weights(weights, names, Path(source.repository), str(source))

    def download(wanted: list[str]) -> Path:
        return Path(
            _with_patience(
                source,
                lambda: snapshot_download(
                    source.repository,
                    revision=info.sha,
                    cache_dir=cache_dir,
                    allow_patterns=[glob.escape(name) for name in wanted],
                ),
            )
        )

    companions = select_companions(names)
    # The small files first: whether the model is refused shows before gigabytes arrive.
    refuse_remote_code(download(companions), names, str(source))
    size = sum(sibling.size or 0 for sibling in siblings if sibling.rfilename in weights)
    console.log(f"fetching {source}: {len(weights)} weight files, {size / 1e6:.0f} MB")
    directory = download([*companions, *weights])
    return HubSnapshot(
        directory=directory,
        commit=str(info.sha),
        files=(*companions, *weights),
        weights=tuple(weights),
        published={s.rfilename: s.lfs.sha256 for s in siblings if s.lfs is not None},
    )


def find_in_hub_cache(
    source: HubSource, *, cache_dir: Path | None, commit: str | None
) -> HubSnapshot | None:
    """Looks for a model that another program fetched, without network.

    Args:
        source: The repository and revision.
        cache_dir: Folder of the Hub's cache, or None for the place that all programs share.
        commit: The commit that the revision meant at first use, if there was one.

    Returns:
        Its files, or None when the cache lacks them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = Path(
            snapshot_download(
                source.repository,
                revision=commit or source.revision,
                cache_dir=cache_dir,
                local_files_only=True,
                # Only what is there is asked for: other programs fetch other files.
                allow_patterns=["*.safetensors", "*config.json", "model_index.json"],
            )
        )
    except LocalEntryNotFoundError:
        return None
    names = list_files(directory)
    weights = select_weights(names)
    if not weights:
        return None
    refuse_remote_code(directory, names, str(source))
    return HubSnapshot(
        directory=directory,
        commit=directory.name,
        files=(*select_companions(names), *weights),
        weights=tuple(weights),
    )


def _with_patience(source: HubSource, ask: Callable[[], Result]) -> Result:
    """Asks again after growing pauses while the Hub's trouble may pass."""
    pauses_s = iter(_PAUSES_S)
    while True:
        try:
            return ask()
        except Exception as error:
            refusal = _refusal(source, error)
            if refusal is None:
                raise
            pause_s = next(pauses_s, None)
            if not isinstance(refusal, TemporaryError) or pause_s is None:
                raise refusal from error
            console.log(f"{refusal} (asking again)")
            time.sleep(max(pause_s, _asked_pause_s(error)))


def _refusal(source: HubSource, error: BaseException) -> LlmbindError | None:
    """Says what a failure of the Hub's client means; None for what it did not cause."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    for link in chain:
        if (refusal := _refusal_by_hub(source, link)) is not None:
            return refusal
    for link in chain:
        if isinstance(link, OSError) and link.errno is not None:
            return storage_error(Path(link.filename or "the Hub's cache"), link)
    return None


def _refusal_by_hub(source: HubSource, error: BaseException) -> LlmbindError | None:
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return ModelNotFoundError(f"{source}: not fetched, HF_HUB_OFFLINE forbids it")
    if isinstance(error, HFValidationError):
        return UsageError(f"{source}: not a name that the Hub allows")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in _PASSING_STATUS or (status is not None and status >= 500):
        return TemporaryError(f"{source}: the Hub answered {status}; try again later")
    if status in (401, 403, 404):
        return ModelNotFoundError(
            f"{source}: no such repository or revision, or no access to it (HTTP {status});"
            " check the spelling, or log in with `hf auth login`"
        )
    # The client's HTTP library is httpx or a successor; its errors share no base with OSError.
    if isinstance(error, TimeoutError | ConnectionError) or (
        type(error).__module__.startswith("httpx") and status is None
    ):
        name = type(error).__name__
        return TemporaryError(f"{source}: no answer from the Hub ({name}); try again later")
    return None


def _asked_pause_s(error: BaseException) -> float:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return min(float(headers.get("Retry-After", 0)), _LONGEST_PAUSE_S)
    except ValueError:  # a date instead of seconds
        return 0.0


def shared_cache_is_known() -> bool:
    """Whether the Hub's own rule finds a home for its cache: it needs HOME or a variable."""
    return any(os.environ.get(name) for name in ("HOME", "HF_HOME", "HF_HUB_CACHE"))
