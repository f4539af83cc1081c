"""Which generator serves a task: the bundle's table, overridden by ``--generator``, loaded once.

A source is a diffusers pipeline folder, ``hf:ORG/NAME@REVISION``, or the name of an installed
generator: an entry point of the group ``llmbind.generators`` whose object is called with
``device``, ``dtype`` and ``offline`` as keywords and returns a
:class:`~llmbind_cli.generators.base.Generator`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from llmbind_cli.errors import ModelNotFoundError, UnavailableError, UsageError
from llmbind_cli.generators.base import Generator
from llmbind_cli.weights.sources import HubSource, PathSource, PypiSource, parse_source

ENTRY_POINT_GROUP = "llmbind.generators"
MODALITIES = ("image", "edit", "video", "audio")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", re.ASCII)


def parse_generator_overrides(assignments: Iterable[str]) -> dict[str, str]:
    """Read the values of ``--generator MODALITY=SOURCE``.

    Args:
        assignments: One value for each time the flag was given.

    Returns:
        Modality → source.

    Raises:
        UsageError: A value has another form, names no modality, or one is named twice.
    """
    table: dict[str, str] = {}
    for assignment in assignments:
        modality, equals, source = assignment.partition("=")
        if modality not in MODALITIES:
            near = difflib.get_close_matches(modality, MODALITIES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(MODALITIES)}"
            raise UsageError(f"--generator {assignment}: unknown modality {modality!r}; {hint}")
        if not equals or not source:
            raise UsageError(f"--generator {assignment}: write {modality}=PATH_OR_ID")
        if modality in table:
            raise UsageError(f"--generator {modality}: given twice")
        table[modality] = source
    return table


class GeneratorRegistry:
    """The generators of one process; each is loaded at its first use and kept."""

    def __init__(
        self,
        *,
        bundle: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
        folder: Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        require_safety_checker: bool = False,
    ) -> None:
        """Put the tables together; nothing is looked up yet.

        Args:
            bundle: Modality → source, from the bundle.
            overrides: Modality → source, from ``--generator``; these win.
            folder: The bundle's folder, which relative paths of ``bundle`` start from.
            device: Value of ``--device``.
            dtype: Value of ``--dtype``.
            offline: Fetch nothing.
            require_safety_checker: Refuse image pipelines without one.
        """
        self._sources = {
            modality: _within(folder, source) for modality, source in (bundle or {}).items()
        }
        self._sources.update(overrides or {})
        self._device = device
        self._dtype = dtype
        self._offline = offline
        self._require_safety_checker = require_safety_checker
        self._loaded: dict[str, Generator] = {}

    def check(self, modality: str) -> str:
        """Say which source serves a modality, without loading or fetching anything.

        Args:
            modality: Task name of the token table.

        Returns:
            The source as it was written; a bundle's own folder as a path.

        Raises:
            ModelNotFoundError: None is named for it, or the folder named does not exist.
            UnavailableError: This version has nothing that could run it.
            UsageError: The source has no form that llmbind reads.
        """
        if modality not in MODALITIES:
            raise UnavailableError(f"no generator serves the task {modality!r}")
        source = self._sources.get(modality)
        if source is None:
            flag = f"--generator {modality}=PATH_OR_ID"
            how = f"name one: {flag}, for example {flag.replace('PATH_OR_ID', './my-pipeline')}"
            if modality != "image":
                how = (
                    f"{flag} takes an installed generator for it, since llmbind itself runs image "
                    f"pipelines only"
                )
            raise ModelNotFoundError(f"no {modality} generator: {how}")
        if _entry_point(source) is not None:
            return source
        if modality != "image":
            raise UnavailableError(
                f"--generator {modality}={source}: llmbind itself runs image pipelines only, and "
                f"no installed package offers a generator of that name"
            )
        _parse(source)
        return source

    def load(self, modality: str) -> Generator:
        """Return the generator of a modality, loaded at the first call and kept.

        Args:
            modality: Task name of the token table.

        Raises:
            ModelNotFoundError: None is named for it, or its folder or repository is not there.
            UnavailableError: This version cannot run it, or the device is missing.
            IntegrityError: Its weights fail a check.
            PolicyError: It needs code of its own, or lacks a required safety checker.
            TemporaryError: The hub or the device's memory failed it for now.
            UsageError: The source has no form that llmbind reads.
        """
        if modality not in self._loaded:
            self._loaded[modality] = self._load(modality, self.check(modality))
        return self._loaded[modality]

    def _load(self, modality: str, source: str) -> Generator:
        entry = _entry_point(source)
        if entry is not None:
            made: Generator = entry.load()(
                device=self._device, dtype=self._dtype, offline=self._offline
            )
            if made.modality != modality:
                raise UsageError(
                    f"--generator {modality}={source}: that generator makes {made.modality}"
                )
            return made
        from llmbind_cli.generators.image import load_image_generator

        parsed = _parse(source)
        if isinstance(parsed, HubSource):
            from llmbind_cli.weights.cache import resolve

            folder, name = resolve(str(parsed), offline=self._offline), str(parsed)
        else:
            folder = parsed.path
            # The last part only: files that are passed on should not tell where they were made.
            name = folder.resolve().name
        return load_image_generator(
            folder,
            name=name,
            device=self._device,
            dtype=self._dtype,
            require_safety_checker=self._require_safety_checker,
        )


def _parse(source: str) -> HubSource | PathSource:
    """Read a source; a folder that exists wins over a hub id of the same spelling."""
    if not source.startswith(("hf:", "pypi:")) and not Path(source).expanduser().exists():
        if _HUB_ID.fullmatch(source) and not source.startswith("."):
            if "@" not in source:
                raise ModelNotFoundError(
                    f"{source}: no such folder; to fetch it from the hub, pin its revision: "
                    f"hf:{source}@COMMIT"
                )
            source = f"hf:{source}"
        else:
            raise ModelNotFoundError(
                f"{source}: no such folder, and no hub id (hf:ORG/NAME@REVISION)"
            )
    parsed = parse_source(source)
    if isinstance(parsed, PypiSource):
        raise UsageError(f"{source}: a generator is a folder or hf:ORG/NAME@REVISION")
    return parsed


def _within(folder: Path | None, source: str) -> str:
    if folder is not None and (folder / source).is_dir():
        return str(folder / source)
    return source


def _entry_point(source: str) -> metadata.EntryPoint | None:
    found = metadata.entry_points(group=ENTRY_POINT_GROUP, name=source)
    return next(iter(found), None)
