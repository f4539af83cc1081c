"""A base on disk for each family, and a binding model built on one."""

from __future__ import annotations

import pytest
from tiny_binding_model import build
from tiny_language_models import FAMILIES, save_base


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def base(request, tmp_path_factory):
    """The directory of a saved base model."""
    return save_base(tmp_path_factory.mktemp("base") / request.param, request.param)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def bound(base):
    """A binding model with random adapters, in evaluation mode."""
    return build(base)
