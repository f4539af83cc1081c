"""Folders of small masks and pictures, and ``llmbind eval`` in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour_features import colours
from PIL import Image

from llmbind_cli import app
from llmbind_cli.evaluation import feature_cache
from llmbind_cli.metrics.extractors import efficientnet_lite


@pytest.fixture(autouse=True)
def kept_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of extracted features: never the user's, as some extractors here are stand-ins."""
    place = tmp_path / "kept-features"
    monkeypatch.setattr(feature_cache, "default_folder", lambda: place)
    return place


@pytest.fixture
def by_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the colours of a picture in the place of EfficientNet-lite0's features."""
    monkeypatch.setattr(efficientnet_lite, "load_extractor", lambda **_: torch.nn.Identity())
    monkeypatch.setattr(efficientnet_lite, "extract", colours)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes arrays as PNG files into a folder of some name, and gives the folder."""

    def write(name: str, arrays: Mapping[str, Any]) -> Path:
        place = tmp_path / name
        for item, array in arrays.items():
            file = place / f"{item}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(array, dtype=np.uint8)).save(file)
        return place

    return write


@pytest.fixture
def pictures(folder: Callable[..., Path]) -> Callable[..., Path]:
    """Writes random pictures of one seed into a folder, with noise on them."""

    def write(name: str, *, n: int = 5, side: int = 16, noise: int = 0, seed: int = 0) -> Path:
        generator = np.random.default_rng(seed)
        arrays = {}
        for number in range(n):
            pixels = generator.integers(0, 256, (side, side, 3))
            shift = generator.integers(-noise, noise + 1, pixels.shape)
            arrays[f"{number}"] = np.clip(pixels + shift, 0, 255)
        return folder(name, arrays)

    return write


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes objects as JSON lines."""

    def write(name: str, *rows: Any) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``llmbind eval`` here; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.main(["eval", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
