"""Tokenizers with and without task tokens."""

from __future__ import annotations

import pytest
from tiny_tokenizers import byte_level, metaspace

from llmbind_cli.model.language_model import load_tokenizer
from llmbind_cli.tokens import TASK_TOKENS, register_task_tokens


@pytest.fixture(params=[byte_level, metaspace], ids=["byte-level", "metaspace"])
def bare_tokenizer(request):
    """A tokenizer without task tokens."""
    return request.param()


@pytest.fixture(params=["byte-level", "metaspace", "embedded"], scope="module")
def bound_tokenizer(request):
    """A tokenizer with every task token; tests leave it as it is."""
    if request.param == "embedded":
        tokenizer = load_tokenizer(request.getfixturevalue("embedded_bundle"))
    else:
        tokenizer = {"byte-level": byte_level, "metaspace": metaspace}[request.param]()
    register_task_tokens(tokenizer, TASK_TOKENS)
    return tokenizer


@pytest.fixture
def byte_level_tokenizer():
    """A byte-level tokenizer with every task token, free to change."""
    tokenizer = byte_level()
    register_task_tokens(tokenizer, TASK_TOKENS)
    return tokenizer
