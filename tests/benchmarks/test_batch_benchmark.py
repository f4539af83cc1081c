"""The batch benchmark: both sides give the same replies, and its requests are mixed."""

from __future__ import annotations

import importlib
import sys

import pytest
from tiny_binding_model import build
from tiny_language_models import save_base

from llmbind_cli.model.chat_format import ChatTurn, encode_chat
from llmbind_cli.model.decode import decode


@pytest.fixture
def parts(root, monkeypatch):
    """The two modules of the benchmark."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    names = ("batch", "batch_contenders")
    yield tuple(importlib.import_module(name) for name in names)
    for name in names:
        sys.modules.pop(name, None)


def test_decoding_without_cache_gives_the_same_replies(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    model = build(save_base(tmp_path / "base"))
    for text in ("a cat", "why does it rain?"):
        turns = [ChatTurn(role="user", content=text)]
        prompt = encode_chat(
            model.tokenizer, turns, model.token_table, add_generation_prompt=True
        ).ids
        (reply,) = decode(model, [prompt], max_new_tokens=12)
        assert parts[1].decode_without_cache(model, prompt, max_new_tokens=12) == reply.ids


def test_requests_are_mixed_and_held_out(parts):
    requests = parts[0].mixed_requests(64)
    assert len({row["id"] for row in requests}) == 64
    assert set(requests[0]) == {"id", "prompt"}
    with pytest.raises(SystemExit, match="there are"):
        parts[0].mixed_requests(10_000)
