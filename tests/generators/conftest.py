from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_pipeline import save_pipeline


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline that no test changes."""
    return save_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny")


@pytest.fixture
def altered(pipeline_folder: Path, tmp_path: Path) -> Callable[[], Path]:
    """Return a copy of the pipeline that a test may damage."""

    def copy() -> Path:
        return Path(shutil.copytree(pipeline_folder, tmp_path / "altered"))

    return copy
