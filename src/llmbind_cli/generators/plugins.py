"""Generators that installed packages offer: entry points of the group ``llmbind.generators``.

An entry point names a callable. It gets ``device``, ``dtype``, ``offline`` and ``settings`` as
keywords and returns a :class:`~llmbind_cli.generators.base.Generator`.
"""

from __future__ import annotations

from importlib import metadata

from llmbind_cli.console import console
from llmbind_cli.errors import LlmbindError, UnavailableError, UsageError
from llmbind_cli.generators.base import Generator
from llmbind_cli.generators.settings import GeneratorSettings

ENTRY_POINT_GROUP = "llmbind.generators"


def find_plugin(name: str) -> metadata.EntryPoint | None:
    """Return the installed generator of a name without importing it, ``None`` where none has it.

    Raises:
        UsageError: Several distributions offer one of that name.
    """
    found = list(metadata.entry_points(group=ENTRY_POINT_GROUP, name=name))
    if len(found) > 1:
        owners = " and ".join(sorted(_owner(entry) for entry in found))
        raise UsageError(f"generator {name!r} is offered by {owners}; uninstall one of them")
    return found[0] if found else None


def make_generator(
    entry: metadata.EntryPoint,
    *,
    device: str,
    dtype: str,
    offline: bool,
    settings: GeneratorSettings,
) -> Generator:
    """Import an installed generator and make it.

    The group's other entry points are imported as well, and each that fails is one warning: a
    package that broke would otherwise come to light on the day that it is asked for.

    Args:
        entry: From :func:`find_plugin`.
        device: Value of ``--device``.
        dtype: Value of ``--dtype``.
        offline: Fetch nothing.
        settings: What the user asked for.

    Raises:
        UnavailableError: It cannot be imported or made; names its distribution.
        LlmbindError: What the generator itself raises on purpose.
    """
    try:
        make = entry.load()
    except Exception as error:
        raise UnavailableError(
            f"the generator {entry.name!r} of {_owner(entry)} cannot be imported: "
            f"{_reason(error)}; repair or uninstall that package"
        ) from error
    for other in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if other.name != entry.name:
            _warn_if_broken(other)
    try:
        made: Generator = make(device=device, dtype=dtype, offline=offline, settings=settings)
    except LlmbindError:
        raise
    except Exception as error:
        raise UnavailableError(
            f"the generator {entry.name!r} of {_owner(entry)} cannot be made: {_reason(error)}"
        ) from error
    lacking = [
        name
        for name in ("modality", "name", "fingerprint", "batch_size", "generate")
        if not hasattr(made, name)
    ]
    if lacking:
        raise UnavailableError(
            f"the generator {entry.name!r} of {_owner(entry)} lacks {', '.join(lacking)}, which "
            f"llmbind_cli.generators.base.Generator asks for"
        )
    return made


def _warn_if_broken(entry: metadata.EntryPoint) -> None:
    try:
        entry.load()
    except Exception as error:
        console.warn(
            f"the generator {entry.name!r} of {_owner(entry)} cannot be imported: {_reason(error)}"
        )


def _owner(entry: metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
