"""Which generator serves a task: the bundle's table, overridden by ``--generator``, loaded once.

A source is a diffusers pipeline folder, ``hf:ORG/NAME@REVISION``, or the name of an installed
generator (:mod:`llmbind_cli.generators.plugins`).
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.errors import ModelNotFoundError, UnavailableError, UsageError
from llmbind_cli.generators import plugins
from llmbind_cli.generators.base import Generator
from llmbind_cli.generators.plugins import find_plugin, make_generator
from llmbind_cli.generators.settings import GeneratorSettings
from llmbind_cli.weights.sources import HubSource, PathSource, PypiSource, parse_source

if TYPE_CHECKING:
    from llmbind_cli.generators.pipeline_generator import PipelineGenerator

_CLASSES = {
    "image": "ImageGenerator",
    "edit": "EditGenerator",
    "video": "VideoGenerator",
    "audio": "AudioGenerator",
}
MODALITIES = tuple(_CLASSES)
ENTRY_POINT_GROUP = plugins.ENTRY_POINT_GROUP

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", re.ASCII)
_DEFAULTS = GeneratorSettings()


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
    """The generators of one process; each is loaded at its first use and kept.

    Under a memory budget the least recently used ones leave before another is loaded.
    """

    def __init__(
        self,
        *,
        bundle: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
        folder: Path | None = None,
        bundle_name: str = "",
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        require_safety_checker: bool = False,
        settings: GeneratorSettings = _DEFAULTS,
    ) -> None:
        """Put the tables together; nothing is looked up yet.

        Args:
            bundle: Modality → source, from the bundle.
            overrides: Modality → source, from ``--generator``; these win.
            folder: The bundle's folder, which relative paths of ``bundle`` start from.
            bundle_name: What its own generators are called after.
            device: Value of ``--device``.
            dtype: Value of ``--dtype``.
            offline: Fetch nothing.
            require_safety_checker: Refuse pipelines for pictures and clips without one.
            settings: What the user asked of every generator.
        """
        self._sources = {
            modality: _within(folder, source) for modality, source in (bundle or {}).items()
        }
        # The last part of their paths is no more than the modality.
        self._own_names = {
            source: f"{bundle_name}/{modality}"
            for modality, source in self._sources.items()
            if bundle_name and source != (bundle or {})[modality]
        }
        self._sources.update(overrides or {})
        self._device = device
        self._dtype = dtype
        self._offline = offline
        self._require_safety_checker = require_safety_checker
        self._settings = settings
        # In the order of use, the latest last.
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
            flag = f"--generator {modality}="
            raise ModelNotFoundError(
                f"no {modality} generator: name one: {flag}PATH_OR_ID, for example "
                f"{flag}./my-pipeline"
            )
        if find_plugin(source) is None:
            _parse(source)
        return source

    def load(self, modality: str) -> Generator:
        """Return the generator of a modality, loaded at the first call and kept.

        Args:
            modality: Task name of the token table.

        Raises:
            ModelNotFoundError: None is named for it, or its folder or repository is not there.
            UnavailableError: This version cannot run it, or a device or package is missing.
            IntegrityError: Its weights fail a check.
            PolicyError: It needs code of its own, or lacks a required safety checker.
            TemporaryError: The hub or the device's memory failed it for now.
            UsageError: The source has no form that llmbind reads, or the pipeline cannot take one
                of the settings, the memory budget among them.
        """
        if modality not in self._loaded:
            self._loaded[modality] = self._load(modality, self.check(modality))
        self._loaded[modality] = self._loaded.pop(modality)
        return self._loaded[modality]

    def _load(self, modality: str, source: str) -> Generator:
        entry = find_plugin(source)
        if entry is None:
            return self._load_pipeline(modality, source)
        made = make_generator(
            entry,
            device=self._device,
            dtype=self._dtype,
            offline=self._offline,
            settings=self._settings,
        )
        if made.modality != modality:
            raise UsageError(
                f"--generator {modality}={source}: that generator makes {made.modality}"
            )
        return made

    def _load_pipeline(self, modality: str, source: str) -> Generator:
        parsed = _parse(source)
        if isinstance(parsed, HubSource):
            from llmbind_cli.weights.cache import resolve

            folder, name = resolve(str(parsed), offline=self._offline), str(parsed)
        else:
            folder = parsed.path
            # The last part only: files that are passed on should not tell where they were made.
            name = self._own_names.get(source, folder.resolve().name)
        module = importlib.import_module(f"llmbind_cli.generators.{modality}")
        found: type[PipelineGenerator] = getattr(module, _CLASSES[modality])
        shared = self._loaded_from(folder)
        if shared is None:
            self._make_room(folder, name)
        return found.load(
            folder,
            name=name,
            device=self._device,
            dtype=self._dtype,
            settings=self._settings,
            require_safety_checker=self._require_safety_checker,
            shared=shared,
        )

    def _loaded_from(self, folder: Path) -> PipelineGenerator | None:
        """Return a loaded picture generator of the same folder: edits run on its networks."""
        from llmbind_cli.generators.pipeline_generator import PipelineGenerator

        if self._settings.cpu_offload:
            return None  # the networks' hooks know one pipeline only
        for made in self._loaded.values():
            if isinstance(made, PipelineGenerator) and made.folder.resolve() == folder.resolve():
                return made
        return None

    def _make_room(self, folder: Path, name: str) -> None:
        """Let generators go until the folder's networks fit into the memory budget."""
        if self._settings.memory_budget_gib is None:
            return
        from llmbind_cli.generators.memory import parameter_bytes, planned_bytes

        budget = int(self._settings.memory_budget_gib * 2**30)
        planned = planned_bytes(folder, device=self._device, dtype=self._dtype)
        if planned > budget:
            raise UsageError(
                f"--memory-budget {self._settings.memory_budget_gib:g}: the weights of {name} "
                f"take {planned / 2**30:.3g} GiB; raise the budget or name a smaller generator"
            )
        while self._loaded and parameter_bytes(self._loaded.values()) + planned > budget:
            oldest = next(iter(self._loaded))
            leaving = self._loaded.pop(oldest)
            release = getattr(leaving, "release", None)
            if release is not None:
                release()


def _parse(source: str) -> HubSource | PathSource:
    """Read a source; a folder that exists wins over a hub id of the same spelling."""
    if not source.startswith(("hf:", "pypi:")) and not _exists(source):
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


def _exists(source: str) -> bool:
    try:
        return Path(source).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name, or the home of somebody who is not there
        return False


def _within(folder: Path | None, source: str) -> str:
    if folder is not None and (folder / source).is_dir():
        return str(folder / source)
    return source
