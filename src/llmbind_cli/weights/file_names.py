"""File names made from ids that users choose."""

from __future__ import annotations

import hashlib
import re

_LONGEST_STEM = 80
_PLAIN_STEM = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)
_HASHED_STEM = re.compile(r".*-[0-9a-f]{12}", re.ASCII)


def file_stem(item_id: str) -> str:
    """Return a file-name stem for an item id: at most 93 of ``[A-Za-z0-9._-]``.

    A short id of lower-case letters, digits, dots, dashes and underscores stands for itself.
    Every other one (with slashes, capitals, spaces, other scripts, too long) is cleaned and gets
    12 digits of its SHA-256, so that two ids never share a stem, not even where the file system
    ignores case; an id that looks as if it had such digits gets its own as well.

    Args:
        item_id: Any text, also hostile.
    """
    plain = _PLAIN_STEM.fullmatch(item_id) and len(item_id) <= _LONGEST_STEM
    if plain and not item_id.endswith(".") and not _HASHED_STEM.fullmatch(item_id):
        return item_id
    digest = hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", item_id).strip(".-")[:_LONGEST_STEM]
    return f"{readable or 'item'}-{digest}"
