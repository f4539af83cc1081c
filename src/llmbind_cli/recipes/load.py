"""Reads a recipe: TOML, ``extends``, ``--set``, and all errors shown together.

A recipe that says ``extends = "other.toml"`` starts from that file: tables are merged key by key,
everything else is replaced. Where there is no such file, it is the shipped recipe of that name.
Overrides come last.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.recipes.locate import shipped_recipe

if TYPE_CHECKING:
    from llmbind_cli.recipes.schema import Recipe

Table = dict[str, Any]

_PATHS = frozenset({"root", "photos", "classes", "annotations", "sprites", "stand_ins"})
_PATH_LISTS = frozenset({"paths", "talk", "images"})
"""Keys of data sources that name files or folders."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a training recipe.

    Args:
        path: The TOML file.
        overrides: Assignments ``dotted.key=value``; see :func:`apply_override`.

    Returns:
        The checked recipe, with defaults filled in.

    Raises:
        ConfigurationError: A file cannot be read or is no TOML; or the recipe is wrong, with one
            line for each error.
    """
    from llmbind_cli.recipes.check import check_recipe

    table = read_recipe_table(path)
    errors: list[str] = []
    for override in overrides:
        try:
            apply_override(table, override)
        except ConfigurationError as error:
            errors.append(str(error))
    recipe, found = check_recipe(table)
    errors += [f"{path}: {error}" for error in found]
    if len(errors) == 1:
        raise ConfigurationError(errors[0])
    if recipe is None or errors:
        lines = "".join(f"\n  {error}" for error in errors)
        raise ConfigurationError(f"{path}: {len(errors)} errors{lines}")
    return recipe


def read_recipe_table(path: Path) -> Table:
    """Reads a recipe file and those that it extends, without checking the keys.

    Args:
        path: The TOML file.

    Returns:
        The merged table, without ``extends``; relative paths of files start at the folder of the
        recipe that names them.

    Raises:
        ConfigurationError: A file cannot be read or is no TOML, or a recipe extends itself.
    """
    layers: list[Table] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        if following.resolve() in seen:
            raise ConfigurationError(f"{following}: this recipe extends itself, by way of {path}")
        seen.append(following.resolve())
        table = read_toml(following)
        parent = table.pop("extends", None)
        if parent is not None and not isinstance(parent, str):
            raise ConfigurationError(f"{following}: extends must be the path of a file")
        _anchor_paths(table, following.parent)
        layers.append(table)
        following = _parent(following.parent, parent) if parent is not None else None
    merged: Table = {}
    for table in reversed(layers):
        _give_way(merged, table)
        _merge(merged, table)
    return merged


def _parent(folder: Path, name: str) -> Path:
    beside = folder / name
    return beside if beside.is_file() else shipped_recipe(name) or beside


def read_toml(path: Path) -> Table:
    """Reads one TOML file.

    Args:
        path: The file, in UTF-8.

    Returns:
        Its top-level table.

    Raises:
        ConfigurationError: The file cannot be read, or is no TOML: names file, line and column.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ConfigurationError(f"{path}:{line}:{column}: this byte is not UTF-8") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, place = _split_place(str(error), text)
        raise ConfigurationError(f"{path}:{place}: not valid TOML: {reason}") from error


def apply_override(table: Table, override: str) -> None:
    """Sets one value of a recipe table, making tables on the way.

    Args:
        table: The recipe table; changed in place. ``train.steps`` takes the place of
            ``train.epochs``, and the other way about.
        override: ``dotted.key=value``. The value is TOML; text that is no TOML is taken as a
            string, so that ``model.base=hf:org/name`` needs no quotes within quotes. A number in
            the key selects an item of a list: ``data.0.count=2000``.

    Raises:
        ConfigurationError: No ``=``, a broken quoted value, or a key that leads nowhere.
    """
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise ConfigurationError(f"--set {override}: must have the form section.key=value")
    value = _toml_value(text.strip(), override)
    if len(steps) == 2 and steps[0] == "train":
        _give_way(table, {"train": {steps[1]: value}})
    place: Any = table
    for step in steps[:-1]:
        if isinstance(place, dict):
            place = place.setdefault(step, {})
        else:
            place = place[_index(place, step, override)]
    if isinstance(place, dict):
        place[steps[-1]] = value
    else:
        place[_index(place, steps[-1], override)] = value


def _index(place: Any, step: str, override: str) -> int:
    if not isinstance(place, list):
        raise ConfigurationError(f"--set {override}: {step!r} stands below a single value")
    if not step.isdecimal() or int(step) >= len(place):
        raise ConfigurationError(
            f"--set {override}: {step!r} is no item of a list of {len(place)}, counted from 0"
        )
    return int(step)


def _toml_value(text: str, override: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text[:1] in ('"', "'", "[", "{", ""):
            raise ConfigurationError(f"--set {override}: not a TOML value: {error}") from error
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _split_place(message: str, text: str) -> tuple[str, str]:
    """Separates tomllib's message into the reason and ``line:column``."""
    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if match:
        return match[1], f"{match[2]}:{match[3]}"
    reason = message.removesuffix(" (at end of document)")
    last = text.rpartition("\n")[2]
    return reason, f"{text.count(chr(10)) + 1}:{len(last) + 1}"


def _give_way(below: Table, above: Table) -> None:
    """Drops the length of a training that another one is to replace: in steps or in epochs."""
    kept, new = below.get("train"), above.get("train")
    if isinstance(kept, dict) and isinstance(new, dict):
        for given, other in (("steps", "epochs"), ("epochs", "steps")):
            if given in new and other not in new:
                kept.pop(other, None)


def _merge(below: Table, above: Table) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value


def _anchor_paths(table: Table, folder: Path) -> None:
    """Makes the paths of data sources start at the recipe's own folder."""

    def anchored(paths: Any) -> Any:
        if not isinstance(paths, list):
            return paths
        return [str(folder / path) if isinstance(path, str) else path for path in paths]

    listed = (table.get(name) for name in ("data", "evaluation"))
    for source in (entry for sources in listed if isinstance(sources, list) for entry in sources):
        if not isinstance(source, dict):
            continue
        for key in _PATH_LISTS & source.keys():
            source[key] = anchored(source[key])
        for key in _PATHS & source.keys():
            source[key] = anchored([source[key]])[0]
        captions = source.get("captions")
        if isinstance(captions, dict):
            source["captions"] = {name: anchored(paths) for name, paths in captions.items()}
