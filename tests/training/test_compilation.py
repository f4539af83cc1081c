"""Compiled blocks: only what holds no adapter is compiled, and the losses stay what they were."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_binding_model import build

from llmbind_cli.data.batches import collate
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.nn.lora_moe import LoraMoeLinear
from llmbind_cli.training.compilation import compile_blocks
from llmbind_cli.training.objective import LanguageObjective

# The compiler warns about deprecated parts of torch, and about tensors that it looks at itself.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def model(trained_base, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path))
    return build(trained_base)


def is_compiled(module):
    return module._compiled_call_impl is not None


def test_parts_without_adapter_are_compiled_and_no_others(model):
    compile_blocks(model)
    parts = [part for layer in model.decoder.layers for part in layer.children()]
    adapted = [any(isinstance(m, LoraMoeLinear) for m in part.modules()) for part in parts]
    assert 0 < sum(adapted) < len(parts)
    assert [is_compiled(part) for part in parts] == [not has for has in adapted]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_blocks_give_the_same_loss_and_gradients(model):
    batch = collate(
        [
            EncodedSample(
                ids=list(range(5, 5 + length)),
                loss_weights=[1.0] * length,
                reply_kinds=[1] * length,
                tasks=("image",),
            )
            for length in (9, 20)
        ]
    )
    objective = LanguageObjective(model, aux_coefficient=0.01)
    figures = []
    for compiled in (False, True):
        if compiled:
            compile_blocks(model)
        model.language_model.zero_grad()
        total = objective(batch).total
        total.backward()
        gradients = [p.grad for p in model.language_model.parameters() if p.grad is not None]
        figures.append((total.detach(), torch.cat([g.flatten() for g in gradients])))
    # fp32: a fused kernel adds in another order
    torch.testing.assert_close(figures[1], figures[0], rtol=1e-4, atol=1e-6)
