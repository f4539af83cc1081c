"""Small vision networks on disk."""

from __future__ import annotations

import pytest
import torch
from tiny_vision import save_clip, save_efficientnet, save_sam, save_siglip

from llmbind_cli.model.vision.networks import NetworkLoader


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("nets") / "clip")


@pytest.fixture(scope="session")
def siglip(tmp_path_factory):
    return save_siglip(tmp_path_factory.mktemp("nets") / "siglip")


@pytest.fixture(scope="session")
def sam(tmp_path_factory):
    return save_sam(tmp_path_factory.mktemp("nets") / "sam")


@pytest.fixture(scope="session")
def efficientnet(tmp_path_factory):
    return save_efficientnet(tmp_path_factory.mktemp("nets") / "efficientnet")


@pytest.fixture
def loader():
    return NetworkLoader(bundle=None, device=torch.device("cpu"), dtype=torch.float32, offline=True)
