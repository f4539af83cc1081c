"""Fetching goes on after a cut, and keeps nothing that is not what was pinned."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.util
import io
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "embedded_generator" / "fetch.py"


@pytest.fixture(scope="module")
def fetch():
    spec = importlib.util.spec_from_file_location("embedded_generator_fetch", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("package/assets/1f415.webp", "package/README.md", "package/other.js"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"12345"))
    return buffer.getvalue()


@pytest.fixture
def registry(archive, monkeypatch):
    """A registry on this machine; yields the ranges it was asked for."""
    asked: list[str] = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Range"])
            start = int(asked[-1].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.end_headers()
            self.wfile.write(archive[start:])

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
    yield asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def package(fetch, archive):
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    return dataclasses.replace(fetch.PACKAGES[1], sha512=digest)


def test_a_cut_download_goes_on(fetch, package, archive, registry, tmp_path):
    target = tmp_path / "fluent.tgz"
    target.with_name("fluent.tgz.part").write_bytes(archive[:40])
    fetch.download(package, target)
    assert registry == ["bytes=40-"]
    assert target.read_bytes() == archive


def test_only_what_is_wanted_is_unpacked(fetch, package, archive, tmp_path):
    (tmp_path / "fluent.tgz").write_bytes(archive)
    fetch.unpack(package, tmp_path / "fluent.tgz", tmp_path / "fluent")
    names = {path.name for path in (tmp_path / "fluent").iterdir()}
    assert names == {"1f415.webp", "README.md", "source.json"}
    assert fetch.is_there(package, tmp_path / "fluent")
    assert not fetch.is_there(fetch.PACKAGES[1], tmp_path / "fluent")


@pytest.mark.usefixtures("registry")
def test_another_hash_is_refused(fetch, tmp_path):
    with pytest.raises(SystemExit, match="hash"):
        fetch.download(fetch.PACKAGES[1], tmp_path / "fluent.tgz")
    assert list(tmp_path.iterdir()) == []


def test_every_package_is_pinned_and_has_a_licence(fetch):
    assert {package.licence for package in fetch.PACKAGES} == {"Apache-2.0", "MIT"}
    assert all(len(base64.b64decode(package.sha512)) == 64 for package in fetch.PACKAGES)


def test_without_a_name_npm_is_asked_and_without_npm_the_way_out_is_told(
    fetch, monkeypatch, tmp_path
):
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="NPM_CONFIG_REGISTRY"):
        fetch.registry()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho http://127.0.0.1:4873/\n")
    npm.chmod(0o755)
    assert fetch.registry() == "http://127.0.0.1:4873"
