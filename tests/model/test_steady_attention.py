"""No matter how many queries are asked at a time, four at least reach the kernel."""

from __future__ import annotations

import pytest
import torch
from tiny_language_models import save_base
from transformers.integrations import sdpa_attention

from llmbind_cli.model.language_model import load_language_model
from llmbind_cli.model.steady_attention import NAME


@pytest.fixture
def model(tmp_path):
    return load_language_model(
        save_base(tmp_path / "base"), device=torch.device("cpu"), dtype="float32"
    )


def test_a_cpu_attends_steadily(model):
    assert model.config._attn_implementation == NAME


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_queries_are_filled_up_and_answered_as_usual(model, monkeypatch, count):
    ids = torch.arange(40, 56)[None]
    mask = torch.ones_like(ids)
    mask[:, 3:5] = 0
    with torch.inference_mode():
        cache = model.model(ids[:, :-count], attention_mask=mask[:, :-count]).past_key_values
        asked = []
        usual = sdpa_attention.sdpa_attention_forward
        monkeypatch.setattr(
            sdpa_attention,
            "sdpa_attention_forward",
            lambda module, query, *rest, **named: (
                asked.append(query.shape[2]) or usual(module, query, *rest, **named)
            ),
        )
        found = model.model(ids[:, -count:], attention_mask=mask, past_key_values=cache)
        assert min(asked) >= 4
        model.set_attn_implementation("eager")
        whole = model.model(ids, attention_mask=mask).last_hidden_state[:, -count:]
    torch.testing.assert_close(found.last_hidden_state, whole, rtol=1e-4, atol=1e-5)
