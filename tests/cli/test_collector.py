"""The collector of garbage rests during imports, and only then."""

from __future__ import annotations

import gc
import importlib
import sys

import pytest

from llmbind_cli.collector import collector_paused


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()
    gc.enable()


def test_it_rests_and_goes_on():
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error():
    with pytest.raises(ImportError), collector_paused():
        importlib.import_module("no_such_module")
    assert gc.isenabled()


def test_where_it_was_off_it_stays_off():
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_what_imports_made_is_left_out_of_searches(monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with collector_paused():
        pass
    assert gc.get_freeze_count() == 0  # nothing was imported
    with collector_paused():
        importlib.import_module("this")
    assert gc.get_freeze_count() > 0
