"""Finds the manual pages and the shipped recipes, in a wheel or in a checkout.

Both stand once, at the top level of the repository. The wheel carries them under ``_share``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llmbind_cli.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parents[1]


def shared_folder(name: Literal["commands", "recipes"]) -> Path:
    """Finds the folder of the manual pages or of the shipped recipes.

    Args:
        name: Which of the two.

    Returns:
        The folder in the installed package, else that of the checkout.

    Raises:
        ConfigurationError: The installation lacks it.
    """
    installed = _PACKAGE / "_share" / name
    checkout = _PACKAGE.parents[1] / name
    for folder in (installed, checkout):
        if folder.is_dir():
            return folder
    raise ConfigurationError(f"{installed} is missing: install llmbind again")


def find_recipe(text: str) -> Path:
    """Finds a recipe by its path, or a shipped one by its name.

    Args:
        text: A path to a TOML file, or a name such as ``dialogue`` or ``eval/dialogue``, with or
            without ``.toml``. A file of that path wins over a shipped recipe of that name.

    Returns:
        The path of an existing file.

    Raises:
        ConfigurationError: There is neither.
    """
    path = Path(text)
    recipe = path if path.is_file() else shipped_recipe(text)
    if recipe is None:
        shipped = ", ".join(_shipped_names()) or "none"
        raise ConfigurationError(
            f"{text}: no such recipe file, and no shipped recipe of that name (shipped: {shipped})"
        )
    return recipe


def shipped_recipe(name: str) -> Path | None:
    """Finds a shipped recipe by its name, with or without ``.toml``; ``None`` if there is none."""
    name = name.removesuffix(".toml")
    return shared_folder("recipes") / f"{name}.toml" if name in _shipped_names() else None


def _shipped_names() -> list[str]:
    folder = shared_folder("recipes")
    return sorted(
        recipe.relative_to(folder).with_suffix("").as_posix() for recipe in folder.rglob("*.toml")
    )
