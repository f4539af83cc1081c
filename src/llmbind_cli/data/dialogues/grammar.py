"""A small template grammar and the phrase banks written in it.

A bank is a text file of sections. ``:: name`` opens a section; every other line holds one or more
templates separated by ``|``. Inside a template

- ``{name}`` stands for a value given by the caller, else for a template drawn from that section;
- ``[a|b|]`` draws one of the alternatives, here ``a``, ``b`` or nothing;
- ``@`` before a word stands for "a" or "an";
- ``=>`` separates what a user says from the prompt that is to be written for it, and the prompt
  from what a bank needs beside it; a section name means the same choice in every column, and
  ``=`` alone repeats what the user says.

Lines that start with ``#`` are comments.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from random import Random

ARTICLE = "\x01"
"""Stands for "@" once a template is compiled, so that an "@" in a caption stays as it is."""

SAME = "="
"""A column that repeats what the user says."""

_ARTICLE = re.compile(rf"{ARTICLE} ?(?=(\W*)([\w-]*))")
_AN = re.compile(
    r"(?:[aeio]|u(?!ni[cfotv]|se|ku|ke|k\b|tah)|hour|honest|heir|8|11|18|mp[34]\b|sfx|mgm|x-ray|s\b)"
    r"(?!uro|we\b|ne-|ne\b|nce\b)",
    re.IGNORECASE,
)
_SPACES = re.compile(r" {2,}")
_BEFORE_POINT = re.compile(r" +(?=[,.?!;:])(?!\.\w)")


class _Ref(str):
    """The name of a section or a caller's value inside a compiled template."""

    __slots__ = ()


_Node = tuple["str | _Ref | list[_Node]", ...]
_Template = tuple[_Node, tuple[_Node | None, ...]]


def _compile(text: str) -> _Node:
    """Compile one template; ``[`` opens alternatives, which may nest."""
    stack: list[list[list[str | _Ref | list[_Node]]]] = [[[]]]
    for piece in re.split(r"(\{\w+\}|[\[\]|])", text.replace("@", ARTICLE)):
        if piece == "[":
            stack.append([[]])
        elif piece == "|" and len(stack) > 1:
            stack[-1].append([])
        elif piece == "]":
            alternatives = [tuple(nodes) for nodes in stack.pop()]
            stack[-1][-1].append(alternatives)
        elif piece.startswith("{"):
            stack[-1][-1].append(_Ref(piece[1:-1]))
        elif piece:
            stack[-1][-1].append(piece)
    if len(stack) != 1:
        raise ValueError(f"phrase bank: '[' without ']' in {text!r}")
    return tuple(stack[0][0])


def _split(line: str) -> list[str]:
    """Split a line at the bars that stand outside brackets."""
    entries, depth = [""], 0
    for character in line:
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            entries.append("")
        else:
            entries[-1] += character
    return [entry.strip() for entry in entries if entry.strip()]


def finish(text: str) -> str:
    """Put in "a" and "an", and take out doubled spaces and spaces before points."""
    if ARTICLE in text:
        text = _ARTICLE.sub(lambda m: "an " if _AN.match(m[2]) else "a ", text)
    text = _SPACES.sub(" ", text)
    return _BEFORE_POINT.sub("", text).strip()


class PhraseBank:
    """Named sections of templates.

    Args:
        sections: Section name → templates as written.
    """

    def __init__(self, sections: Mapping[str, list[str]]) -> None:
        self._templates = {
            name: [self._columns(entry) for entry in entries] for name, entries in sections.items()
        }

    @staticmethod
    def _columns(entry: str) -> _Template:
        said, *written = (column.strip() for column in entry.split("=>"))
        return _compile(said), tuple(None if w == SAME else _compile(w) for w in written)

    def __contains__(self, name: str) -> bool:
        return name in self._templates

    def pick(self, rng: Random, section: str, /, **values: str) -> str:
        """Draw a template of a section and expand it, articles and spaces not yet finished."""
        templates = self._templates[section]
        node = templates[int(rng.random() * len(templates))][0]
        out: list[str] = []
        self._expand(node, rng, values, out)
        return "".join(out)

    def pick_columns(self, rng: Random, section: str, /, **values: str) -> tuple[str, ...]:
        """Draw a template and expand its columns with the same choice for each section name.

        Returns:
            What the user says, and after it one text for each further column of the template.
        """
        templates = self._templates[section]
        said, written = templates[int(rng.random() * len(templates))]
        chosen = dict(values)
        for column in (said, *written) if written else ():
            for part in column or ():
                if isinstance(part, _Ref) and part not in chosen:
                    chosen[part] = self.pick(rng, part, **values)
        texts: list[str] = []
        for column in (said, *written):
            if column is None:
                texts.append(texts[0])
                continue
            out: list[str] = []
            self._expand(column, rng, chosen, out)
            texts.append("".join(out))
        return tuple(texts)

    def _expand(self, node: _Node, rng: Random, values: Mapping[str, str], out: list[str]) -> None:
        for part in node:
            if isinstance(part, _Ref):
                value = values.get(part)
                if value is None:
                    templates = self._templates[part]
                    chosen = templates[int(rng.random() * len(templates))][0]
                    self._expand(chosen, rng, values, out)
                else:
                    out.append(value)
            elif isinstance(part, str):
                out.append(part)
            else:
                self._expand(part[int(rng.random() * len(part))], rng, values, out)


@functools.cache
def phrases() -> PhraseBank:
    """Load every phrase file of the package into one bank."""
    return read_bank(resources.files(__package__) / "phrases")


def read_bank(folder: Traversable) -> PhraseBank:
    """Load every phrase file of a folder into one bank.

    Args:
        folder: Its files that end in ``.txt`` are read, by name.

    Raises:
        ValueError: A file has a template before its first section, or repeats a section name.
    """
    sections: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".txt"):
            continue
        entries: list[str] | None = None
        for line in map(str.strip, file.read_text(encoding="utf-8").splitlines()):
            if line.startswith(":: "):
                name = line[3:].strip()
                if name in sections:
                    raise ValueError(f"{file.name}: section {name!r} stands twice")
                entries = sections.setdefault(name, [])
            elif line and not line.startswith("# "):
                if entries is None:
                    raise ValueError(f"{file.name}: {line!r} stands before the first ':: section'")
                entries.extend(_split(line))
    return PhraseBank(sections)
