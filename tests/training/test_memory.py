"""Memory arithmetic: against tensors that PyTorch really keeps, and against the documentation."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, inject_lora_moe
from llmbind_cli.training.memory import (
    GIB,
    BlockShape,
    activation_memory,
    block_bytes,
    model_memory,
    training_flops,
)
from llmbind_cli.training.objective import ROWS

TINY = BlockShape(
    hidden=64,
    feed_forward=160,
    attention=64,
    heads=4,
    layers=4,
    adapted_layers=2,
    adapter_width=3 * (2 + 1),
    vocabulary=96,
)
LLAMA_7B = BlockShape(
    hidden=4096,
    feed_forward=11008,
    attention=4096,
    heads=32,
    layers=32,
    adapted_layers=16,
    adapter_width=4 * (8 + 1),
    vocabulary=32000,
)
BASE_7B = 6_738_415_616
TRAINED_7B = 24_494_080


def kept_bytes(*, layers, dtype, attention, checkpointing=False, batch=2, tokens=48):
    """Bytes of the storages that autograd keeps of one forward pass through the blocks."""
    config = LlamaConfig(
        hidden_size=TINY.hidden,
        intermediate_size=TINY.feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=TINY.heads,
        num_key_value_heads=TINY.heads,
        vocab_size=TINY.vocabulary,
    )
    model = LlamaForCausalLM(config).to(dtype)
    inject_lora_moe(model, LoraMoeConfig(r=2, num_experts=3, every=2))
    model.train()
    model.set_attn_implementation(attention)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    embedded = torch.randn(batch, tokens, TINY.hidden, dtype=dtype, requires_grad=True)
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[0, -5:] = 0
    lasting = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in lasting:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model.model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_more_blocks_keep_what_the_arithmetic_says(dtype, attention):
    """Exactly: a difference of models leaves out the embedding and the last norm."""
    sizes = {"dtype": dtype, "attention": attention}
    measured = kept_bytes(layers=6, **sizes) - kept_bytes(layers=4, **sizes)
    by_arithmetic = sum(
        block_bytes(
            TINY,
            batch=2,
            tokens=48,
            element=dtype.itemsize,
            fused=attention == "sdpa",
            adapted=adapted,
        )
        for adapted in (True, False)
    )
    assert measured == by_arithmetic


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_whole_model_keeps_what_the_arithmetic_says(checkpointing):
    measured = kept_bytes(
        layers=4, dtype=torch.bfloat16, attention="sdpa", checkpointing=checkpointing
    )
    kept = activation_memory(
        TINY,
        batch=2,
        tokens=48,
        element=2,
        fused=True,
        checkpointing=checkpointing,
        logit_rows=ROWS,
    ).kept
    kept -= 2 * 48 * 2 * 2 * TINY.hidden  # what lies between the last norm and the output layer
    # The rotary tables of 48 positions; the first block's input, which the caller owns here.
    assert measured == pytest.approx(kept, rel=0.04)


def test_checkpointing_keeps_one_input_a_block():
    without, with_it = (
        activation_memory(
            LLAMA_7B,
            batch=2,
            tokens=1024,
            element=2,
            fused=True,
            checkpointing=checkpointing,
            logit_rows=ROWS,
        )
        for checkpointing in (False, True)
    )
    assert with_it.kept == 2 * 1024 * 4096 * (32 * 2 + 4 + 4) + 2 * 1024 * 4
    assert with_it.total < 0.25 * without.total


def test_each_stage_shards_one_thing_more():
    """7 B frozen in bfloat16 and 24 M trained in float32, on 8 devices; bytes by hand."""
    sizes = {"frozen": BASE_7B, "trainable": TRAINED_7B, "frozen_bytes": 2, "devices": 8}
    stages = [dataclasses.astuple(model_memory(zero_stage=s, **sizes)) for s in range(4)]
    frozen, weights = 13_476_831_232, 97_976_320
    gradients, moments = 97_976_320, 195_952_640
    assert stages == [
        (frozen, weights, gradients, moments),
        (frozen, weights, gradients, 36_741_120),
        (frozen, weights, 12_247_040, 36_741_120),
        (1_684_603_904, 12_247_040, 12_247_040, 36_741_120),
    ]


def test_training_everything_takes_the_bytes_of_the_zero_paper():
    """arXiv 1910.02054, figure 1: 64 devices shard 16 of 16 bytes a parameter at stage 3."""
    whole = model_memory(
        frozen=0, trainable=7_500_000_000, frozen_bytes=2, zero_stage=3, devices=64
    )
    # Figure 1 has 2 + 2 + 12 bytes in mixed precision, 1.9 GB; float32 has 4 + 4 + 12.
    assert whole.total / 1e9 == pytest.approx(1.9 * 20 / 16, rel=0.02)


def test_an_offloaded_optimizer_is_not_on_the_device():
    sizes = {"frozen": 10, "trainable": 100, "frozen_bytes": 2, "zero_stage": 2, "devices": 4}
    assert model_memory(offload_optimizer=True, **sizes).optimizer == 0
    assert model_memory(**sizes).optimizer == 300


@pytest.mark.parametrize("wrong", [{"zero_stage": 4}, {"devices": 0}])
def test_what_cannot_be_is_refused(wrong):
    sizes = {"frozen": 1, "trainable": 1, "frozen_bytes": 2, "zero_stage": 0, "devices": 1}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        model_memory(**sizes | wrong)


def test_operations_equal_those_of_a_traced_pass():
    """torch's own counter, on a forward and backward pass through the blocks."""
    from torch.utils.flop_counter import FlopCounterMode

    def in_place(total, left, right, **options):
        return 2 * left[0] * left[1] * right[1]

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=96,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).train()
    inject_lora_moe(model, LoraMoeConfig(r=2, num_experts=3, every=2))
    model.set_attn_implementation("eager")
    embedded = torch.randn(2, 48, 64, requires_grad=True)
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.addmm_: in_place}
    ) as counter:
        model(inputs_embeds=embedded, use_cache=False).logits.sum().backward()
    parameters = list(model.named_parameters())
    multiplied = sum(
        p.numel()
        for name, p in parameters
        if not p.requires_grad and "norm" not in name and "embed" not in name
    )
    trained = sum(p.numel() for _, p in parameters if p.requires_grad)
    flops = training_flops(TINY, base=multiplied, adapters=trained, tokens=48, checkpointing=False)
    assert counter.get_total_flops() == 2 * 48 * flops


def test_the_table_in_the_documentation_is_the_arithmetic(root):
    """docs/training.md: "ZeRO 2 | 13.01 | 12.69 |" and the like, in GiB."""
    text = (root / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ZeRO (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [int(stage) for stage, *_ in rows] == [0, 1, 2, 3]
    for stage, *figures in rows:
        computed = [
            model_memory(
                frozen=BASE_7B,
                trainable=TRAINED_7B,
                frozen_bytes=2,
                zero_stage=int(stage),
                devices=devices,
            ).total
            / GIB
            for devices in (1, 8, 16)
        ]
        assert figures == [f"{size:.2f}" for size in computed]
    rows = re.findall(
        r"^\| (\d+) × 1,024 ids \| (with|without)"
        r" \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$",
        text,
        re.MULTILINE,
    )
    assert len(rows) == 6
    for batch, checkpointing, *figures in rows:
        memory = activation_memory(
            LLAMA_7B,
            batch=int(batch),
            tokens=1024,
            element=2,
            fused=True,
            checkpointing=checkpointing == "with",
            logit_rows=ROWS,
        )
        sizes = (memory.kept, memory.workspace, memory.logits, memory.total)
        assert figures == [f"{size / GIB:.2f}" for size in sizes]
