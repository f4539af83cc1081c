"""Reads a pickle that holds plain values only.

A pickle is a program: it may name any function of any package and call it. The refCOCO files need
none of that, so here every name is refused, and what is left can only build values.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Never

from llmbind_cli.errors import InputDataError

_PLAIN = (str, int, float, bool, type(None))
_MOST_VALUES = 50_000_000


class _PlainUnpickler(pickle.Unpickler):
    """Builds lists, tuples, dictionaries, text and numbers, and refuses everything else."""

    def find_class(self, module_name: str, global_name: str) -> Never:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is refused")

    def persistent_load(self, pid: Any) -> Never:
        raise pickle.UnpicklingError("it refers to something outside of the file")


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of lists, tuples, dictionaries with text or numbers as keys, text and numbers.

    Text of Python 2 is read as UTF-8 where it is that, else as Latin-1.

    Args:
        path: The file.

    Raises:
        InputDataError: It cannot be read, is no pickle, is cut, or holds anything else; what it
            names is told and never called.
    """
    try:
        return _checked(path, "utf-8")
    except UnicodeDecodeError:
        pass
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read: {error.strerror}") from None
    return _checked(path, "latin-1")


def _checked(path: Path, encoding: str) -> Any:
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file, encoding=encoding).load()
        _check_plain(value)
    except (UnicodeDecodeError, OSError):
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        reason = str(error) or type(error).__name__
        raise InputDataError(f"{path}: is no pickle of plain values: {reason}") from None
    return value


def _check_plain(value: Any) -> None:
    """Look at every value once; what stands within itself, or is of another type, is refused."""
    waiting, seen = [value], {id(value)}
    count = 0
    while waiting:
        current = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise pickle.UnpicklingError(f"it holds more than {_MOST_VALUES:,} values")
        kind = type(current)
        if kind in _PLAIN:
            continue
        if kind is dict:
            if not all(type(key) in _PLAIN for key in current):
                raise pickle.UnpicklingError("a key is neither text nor a number")
            parts = current.values()
        elif kind in (list, tuple):
            parts = current
        else:
            raise pickle.UnpicklingError(f"it holds a {kind.__name__}")
        for part in parts:
            if type(part) not in _PLAIN:
                if id(part) in seen:
                    continue
                seen.add(id(part))
            waiting.append(part)
