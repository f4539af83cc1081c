"""The talk benchmark: losses of bundle and base, by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_binding_model import build
from tiny_language_models import save_base
from torch.nn import functional

PAIRS = [
    {"prompt": "is a red apple red?", "reply": "a red apple is red"},
    {"prompt": "what do waves do?", "reply": "waves rise and fall near a cloud"},
]


@pytest.fixture(scope="module")
def plain_talk():
    path = Path(__file__).parents[2] / "benchmarks" / "plain_talk.py"
    spec = importlib.util.spec_from_file_location("plain_talk", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture
def model(base, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path))
    return build(base)


def test_the_bases_loss_is_that_of_the_bare_model(plain_talk, model, base):
    from transformers import AutoModelForCausalLM

    from llmbind_cli.model.chat_format import ChatTurn, encode_chat

    bare = AutoModelForCausalLM.from_pretrained(base)
    task_ids = [i for i in model.token_table.ids.values() if i < bare.config.vocab_size]
    for pair, (bound, plain, count) in zip(
        PAIRS, plain_talk.reply_losses(model, PAIRS), strict=True
    ):
        turns = [
            ChatTurn(role="user", content=pair["prompt"]),
            ChatTurn(role="assistant", content=pair["reply"]),
        ]
        chat = encode_chat(model.tokenizer, turns, model.token_table, add_generation_prompt=False)
        start, stop = chat.reply_spans[0]
        logits = bare(torch.tensor([chat.ids])).logits[0, start - 1 : stop - 1].detach()
        logits[:, task_ids] = float("-inf")
        literal = functional.cross_entropy(
            logits, torch.tensor(chat.ids[start:stop]), reduction="sum"
        )
        assert count == stop - start
        # fp32, two attention kernels
        assert plain == pytest.approx(float(literal), rel=1e-5)
        assert bound != pytest.approx(plain, rel=1e-3)


def test_ratio_and_interval(plain_talk):
    losses = [(2.0, 1.0, 3), (3.0, 4.0, 5), (1.0, 1.0, 2)]
    assert plain_talk.ratio(losses) == pytest.approx(6 / 6)
    low, high = plain_talk.interval(losses)
    assert 0.75 <= low < 1 < high <= 2.0


def test_the_bases_own_replies_hold_no_task_token(plain_talk, model):
    answered = plain_talk.base_replies(model, PAIRS, tokens=8)
    assert all(pair["reply"] for pair in answered)
    assert not any(token in pair["reply"] for pair in answered for token in model.token_table.ids)
