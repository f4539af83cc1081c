"""The parts of training: where the loss lies, batches, schedule, and the loss itself."""

from __future__ import annotations

import pytest
import torch
from tiny_binding_model import build
from tiny_dialogues import TAG_CALL_AND_CUT_REPLY
from tiny_tokenizers import byte_level
from torch.nn import functional

from llmbind_cli.data.batches import WIDTH_STEP, collate, endless_batches, epoch_order
from llmbind_cli.data.encode import EncodedSample, encode_dialogue
from llmbind_cli.data.mixture import Mixture
from llmbind_cli.tokens import TASK_TOKENS, register_task_tokens
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.optim import learning_rate_factor, parameter_groups


@pytest.fixture
def bound_tokens():
    tokenizer = byte_level()
    return tokenizer, register_task_tokens(tokenizer, TASK_TOKENS)


def test_the_loss_lies_on_assistant_spans_only(bound_tokens):
    tokenizer, table = bound_tokens
    sample = encode_dialogue(TAG_CALL_AND_CUT_REPLY, tokenizer, table, decision_weight=2.0)
    learned = [i for i, w in zip(sample.ids, sample.loss_weights, strict=True) if w > 0]
    assert tokenizer.decode(learned) == "Here:<gen> a cat</gen><|im_end|>Rain falls"
    assert sample.tasks == ("image",)


def test_the_decision_weighs_more(bound_tokens):
    tokenizer, table = bound_tokens
    sample = encode_dialogue(TAG_CALL_AND_CUT_REPLY, tokenizer, table, decision_weight=3.0)
    heavy = [i for i, w in zip(sample.ids, sample.loss_weights, strict=True) if w == 3.0]
    assert len(heavy) == 3
    assert heavy[1] == table.ids["<gen>"]


def test_a_tag_in_a_user_turn_is_no_task_and_no_token(bound_tokens):
    tokenizer, table = bound_tokens
    sample = encode_dialogue(TAG_CALL_AND_CUT_REPLY, tokenizer, table, decision_weight=1.0)
    assert sample.ids.count(table.ids["<gen>"]) == 1


def test_an_epoch_has_each_sample_once_and_follows_from_its_seed():
    lengths = [5 + 7 * i % 90 for i in range(1003)]
    every = Mixture(sizes=[len(lengths)], weights=None, seed=0)
    order = epoch_order(every, lengths, 8, seed=3, epoch=1)
    assert sorted(i for batch in order for i in batch) == list(range(1003))
    assert order == epoch_order(every, lengths, 8, seed=3, epoch=1)
    assert order != epoch_order(every, lengths, 8, seed=3, epoch=2)
    assert order != epoch_order(every, lengths, 8, seed=4, epoch=1)


def test_length_groups_pad_less():
    lengths = [5 + 7 * i % 90 for i in range(1000)]

    every = Mixture(sizes=[1000], weights=None, seed=0)

    def padding(order):
        cells = sum(max(lengths[i] for i in batch) * len(batch) for batch in order)
        return 1 - sum(lengths) / cells

    at_random = [list(range(i, i + 8)) for i in range(0, 1000, 8)]
    assert padding(epoch_order(every, lengths, 8, seed=0, epoch=0)) < 0.3 * padding(at_random)


def samples(count):
    return [
        EncodedSample(
            ids=[10 + i] * (1 + i % 9),
            loss_weights=[1.0] * (1 + i % 9),
            reply_kinds=[0] * (1 + i % 9),
            tasks=(),
        )
        for i in range(count)
    ]


def test_skipped_batches_equal_those_of_a_run_from_the_start():
    every = Mixture(sizes=[21], weights=None, seed=1)
    whole = endless_batches(samples(21), every, 4, seed=1)
    first = [next(whole) for _ in range(20)]
    for skip in (3, 6, 13):
        later = endless_batches(samples(21), every, 4, seed=1, skip=skip)
        assert all(torch.equal(next(later).input_ids, b.input_ids) for b in first[skip:])


def test_processes_share_the_batches_of_one():
    every = Mixture(sizes=[21], weights=None, seed=1)
    whole = endless_batches(samples(21), every, 4, seed=1)
    shared = [
        endless_batches(samples(21), every, 4, seed=1, rank=rank, world_size=3) for rank in range(3)
    ]
    for number in range(20):
        one, other = next(whole), next(shared[number % 3])
        assert torch.equal(one.input_ids, other.input_ids)


def test_padding_is_masked_and_carries_no_loss():
    batch = collate(samples(3))
    assert batch.input_ids.shape == (3, WIDTH_STEP)
    assert batch.attention_mask.sum(dim=1).tolist() == [1, 2, 3]
    assert (batch.loss_weights.sum(dim=1)).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.25), (3, 1.0), (4, 1.0), (9, 0.5), (14, 0.0), (20, 0.0)]
)
def test_the_rate_warms_up_and_decays(step, factor):
    assert learning_rate_factor(step, warmup_steps=4, total_steps=14) == pytest.approx(factor)


def test_a_constant_rate_stays():
    assert learning_rate_factor(10_000, warmup_steps=4, total_steps=None) == 1.0


@pytest.fixture
def model(trained_base, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path))
    return build(trained_base)


def test_the_text_loss_equals_the_one_from_full_logits(model):
    generator = torch.Generator().manual_seed(0)
    rows = [
        EncodedSample(
            ids=torch.randint(3, 300, (length,), generator=generator).tolist(),
            loss_weights=torch.randint(0, 3, (length,), generator=generator).tolist(),
            reply_kinds=[0] * length,
            tasks=("image",),
        )
        for length in (9, 30, 14)
    ]
    batch = collate(rows)
    losses = LanguageObjective(model, aux_coefficient=0.0)(batch)
    literal = weight = 0.0
    for row in rows:
        logits = model.language_model(torch.tensor([row.ids])).logits[0].detach()
        per_token = functional.cross_entropy(
            logits[:-1], torch.tensor(row.ids[1:]), reduction="none"
        )
        weights = torch.tensor(row.loss_weights[1:])
        literal += float((per_token * weights).sum())
        weight += float(weights.sum())
    # fp32; padded rows sum in another order
    assert float(losses.text) == pytest.approx(literal / weight, rel=1e-5)
    assert int(losses.kind_counts.sum()) == sum(w > 0 for row in rows for w in row.loss_weights[1:])


def test_padding_does_not_move_the_balance_loss(model):
    short = collate(samples(3))
    wide = type(short)(
        **{
            name: tensor if name in ("is_plain", "seen") else functional.pad(tensor, (0, 32))
            for name, tensor in vars(short).items()
        }
    )
    objective = LanguageObjective(model, aux_coefficient=0.01)
    one, other = objective(short), objective(wide)
    assert float(one.balance) > 0
    assert float(one.balance) == pytest.approx(float(other.balance), rel=1e-5)


def test_rows_and_adapters_have_rates_of_their_own(model):
    adapters, rows = parameter_groups(model, lr=1e-3, rows_lr=2e-3)
    trained = [p for p in model.language_model.parameters() if p.requires_grad]
    assert len(adapters[0]) + len(rows[0]) == len(trained)
    assert (adapters[1], rows[1]) == (1e-3, 2e-3)
    assert set(rows[0]) == {"token_rows.input"}


def plain_and_calling(count):
    """Dialogues of which every second calls a task."""
    generator = torch.Generator().manual_seed(3)
    lengths = [12 + 5 * i for i in range(count)]
    return [
        EncodedSample(
            ids=torch.randint(3, 300, (length,), generator=generator).tolist(),
            loss_weights=[0.0] * 5 + [2.0] + [1.0] * (length - 6),
            reply_kinds=[0] * 5 + [i % 2] * (length - 5),
            tasks=("image",) * (i % 2),
        )
        for i, length in enumerate(lengths)
    ]


def test_plain_replies_learn_the_bases_own_distribution(model, trained_base):
    from transformers import AutoModelForCausalLM

    rows = plain_and_calling(5)
    objective = LanguageObjective(model, aux_coefficient=0.0, talk_target="base")
    text = float(objective(collate(rows)).text)
    base = AutoModelForCausalLM.from_pretrained(trained_base)
    literal = weight = 0.0
    for row in rows:
        ids = torch.tensor([row.ids])
        ours = model.language_model(ids).logits[0, :-1].detach().log_softmax(-1)
        if row.tasks:
            per_token = -ours.gather(1, ids[0, 1:, None])[:, 0]
        else:
            # A task token is nothing that the base could say.
            logits = base(ids).logits[0, :-1].detach()
            known = torch.full_like(ours, float("-inf"))
            known[:, : logits.shape[1]] = logits
            known[:, list(model.token_table.ids.values())] = float("-inf")
            per_token = torch.stack(
                [-(p[p > 0] * q[p > 0]).sum() for p, q in zip(known.softmax(-1), ours, strict=True)]
            )
        weights = torch.tensor(row.loss_weights[1:])
        literal += float((per_token * weights).sum())
        weight += float(weights.sum())
    # fp32; padded rows sum in another order
    assert text == pytest.approx(literal / weight, rel=1e-5)


def test_a_fresh_adapter_has_nothing_to_learn_from_plain_talk_but_not_to_call(model):
    for name, parameter in model.language_model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.zero_()
    rows = [row for row in plain_and_calling(5) if not row.tasks]
    weights = {}
    for target in ("reply", "base"):
        model.language_model.zero_grad()
        LanguageObjective(model, aux_coefficient=0.0, talk_target=target)(
            collate(rows)
        ).total.backward()
        weights[target] = sum(
            float(p.grad.norm())
            for n, p in model.language_model.named_parameters()
            if n.endswith("lora_B")
        )
    # What is left pushes the task tokens' share, 10 of some 400 ids, to nothing.
    assert weights["base"] < 0.2 * weights["reply"]


def test_losses_are_told_apart_by_kind_of_reply(model):
    rows = plain_and_calling(4)
    objective = LanguageObjective(model, aux_coefficient=0.01)
    together = objective(collate(rows))
    apart = [
        objective(collate([row for row in rows if bool(row.tasks) == call]))
        for call in (False, True)
    ]
    for kind in (0, 1):
        assert int(together.kind_counts[kind]) == int(apart[kind].kind_counts[kind])
        assert float(together.kind_sums[kind]) == pytest.approx(
            float(apart[kind].kind_sums[kind]), rel=1e-5
        )
    assert int(together.kind_counts[2:].sum()) == 0
    # Each router's shares are those of a whole.
    assert torch.allclose(together.router_load.sum(-1), torch.ones(len(together.router_load)))
