"""What holds for the things of the world beyond their names, as ``knowledge.toml`` lists it."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from llmbind_cli.data.scenes.world import Thing

KNOWLEDGE_FILE = "knowledge.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """Something that holds for some things.

    Attributes:
        name: Its name.
        say: Ways to say it after "the one".
        deny: Ways to say that it does not hold; empty where nobody says so.
        sure: What it surely holds for, as the file writes it.
        but: What of these it only might hold for.
        maybe: What else it might hold for.
    """

    name: str
    say: tuple[str, ...]
    sure: tuple[str, ...]
    deny: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    maybe: tuple[str, ...] = ()

    def holds(self, thing: Thing) -> bool:
        """Tell whether it surely holds."""
        return _any_of(self.sure, thing) and not _any_of(self.but, thing)

    def may_hold(self, thing: Thing) -> bool:
        """Tell whether somebody might say it."""
        return _any_of(self.sure, thing) or _any_of(self.maybe, thing)


@functools.cache
def properties() -> tuple[Property, ...]:
    """Load the properties that ship with the package, in the order of the file."""
    text = (resources.files(__package__) / KNOWLEDGE_FILE).read_text(encoding="utf-8")
    return tuple(
        Property(name=name, **{key: tuple(value) for key, value in table.items()})
        for name, table in tomllib.loads(text).items()
    )


def selects(entry: str, thing: Thing) -> bool:
    """Tell whether an entry of the file names a thing."""
    kind, colon, value = entry.partition(":")
    if not colon:
        return thing.category == entry
    if kind == "name":
        return thing.name == value
    return any(noun.one == value for noun in thing.category_words)


def _any_of(entries: Sequence[str], thing: Thing) -> bool:
    return any(selects(entry, thing) for entry in entries)
