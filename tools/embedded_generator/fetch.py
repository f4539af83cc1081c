"""Fetch the drawings that the embedded generator learns from and is judged with.

    python tools/embedded_generator/fetch.py OUT

Three packages of the npm registry, pinned by version and hash:

| package | licence | what for |
|---|---|---|
| @iconify-json/noto | Apache-2.0 | Google's Noto emoji as vector drawings: training |
| @lobehub/fluent-emoji-3d | MIT | Microsoft's Fluent emoji in 3-D: the judge alone |
| emoji-datasource | MIT | code points and their names: to check the world file |

The registry is that of NPM_CONFIG_REGISTRY, else the one npm is set up for. A download that was cut
goes on where it stopped; a package that is already in OUT with its hash is left as it is.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath

from llmbind_cli.weights.atomic import replace_directory, write_atomically

TIMEOUT_S = 60
BLOCK = 1 << 18
TRIES = 5
RECORD = "source.json"


@dataclass(frozen=True)
class Package:
    """A package to fetch.

    Attributes:
        folder: Name of its folder in OUT.
        name: Its name in the registry.
        version: The pinned version.
        sha512: Hash of its archive in base 64, as the registry's integrity field has it.
        licence: SPDX name.
        wanted: Prefixes of the files to keep, relative to the package; their folders are dropped.
    """

    folder: str
    name: str
    version: str
    sha512: str
    licence: str
    wanted: tuple[str, ...]


PACKAGES = (
    Package(
        folder="noto",
        name="@iconify-json/noto",
        version="1.2.9",
        sha512="DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        licence="Apache-2.0",
        wanted=("icons.json", "chars.json", "info.json", "README.md"),
    ),
    Package(
        folder="fluent",
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha512="Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        licence="MIT",
        wanted=("assets/", "README.md"),
    ),
    Package(
        folder="names",
        name="emoji-datasource",
        version="16.0.0",
        sha512="/qHKqK5Nr3+8zhgO6kHmF43Fm5C8HNn0AaFRIpgw8HF3+uF0Vfc8jgLI1ZQS5ba1vBzksS8NBCjHejwLb2D/Sg==",
        licence="MIT",
        wanted=("emoji.json", "LICENSE"),
    ),
)


def registry() -> str:
    """Return the registry's address without a slash at its end.

    Raises:
        SystemExit: Neither the environment nor npm names one.
    """
    # npm itself reads the name in both cases.
    named = {name.upper(): value for name, value in os.environ.items()}.get("NPM_CONFIG_REGISTRY")
    if not named:
        npm = shutil.which("npm")
        if npm is None:
            sys.exit("set NPM_CONFIG_REGISTRY to the address of an npm registry, or install npm")
        asked = subprocess.run(  # noqa: S603
            [npm, "config", "get", "registry"], check=True, capture_output=True, text=True
        )
        named = asked.stdout.strip()
    return named.rstrip("/")


def download(package: Package, archive: Path) -> None:
    """Bring an archive here, going on after what an earlier try left.

    Raises:
        SystemExit: The registry does not answer, or what it gives has another hash.
    """
    base = package.name.rpartition("/")[2]
    address = f"{registry()}/{package.name}/-/{base}-{package.version}.tgz"
    part = archive.with_name(f"{archive.name}.part")
    for last in (attempt == TRIES - 1 for attempt in range(TRIES)):
        try:
            _continue(address, part)
            break
        except (urllib.error.URLError, OSError) as error:
            if last:
                sys.exit(f"{address}: {error}; run again to go on from {part}")
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if base64.b64encode(digest).decode() != package.sha512:
        part.unlink()
        sys.exit(f"{address}: the archive's hash is not the pinned one; nothing was kept")
    part.replace(archive)


def _continue(address: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"})  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return  # nothing is left to fetch; the hash tells whether it is whole
        raise
    with answer, part.open("ab" if answer.status == HTTPStatus.PARTIAL_CONTENT else "wb") as file:
        shutil.copyfileobj(answer, file, BLOCK)


def unpack(package: Package, archive: Path, target: Path) -> None:
    """Put the wanted files of an archive into a folder, in one step."""
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            relative = "/".join(path.parts[1:])
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None and relative.startswith(package.wanted):
                (staging / path.name).write_bytes(file.read())
    record = {
        "package": package.name,
        "version": package.version,
        "licence": package.licence,
        "integrity": f"sha512-{package.sha512}",
    }
    (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    replace_directory(staging, target)


def is_there(package: Package, target: Path) -> bool:
    """Tell whether a folder holds the pinned package already."""
    try:
        record = json.loads((target / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(record.get("integrity") == f"sha512-{package.sha512}")


def main() -> None:
    """Fetch and unpack what is not there yet, and list the licences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        target = out / package.folder
        if not is_there(package, target):
            archive = out / f"{package.folder}.tgz"
            download(package, archive)
            unpack(package, archive, target)
            archive.unlink()
        print(f"{package.name} {package.version} ({package.licence}): {target}", file=sys.stderr)
    lines = [f"{p.folder}/: {p.name} {p.version}, {p.licence}\n" for p in PACKAGES]
    write_atomically(out / "LICENCES.txt", lambda file: file.write("".join(lines).encode()))


if __name__ == "__main__":
    main()
