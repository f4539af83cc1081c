"""Decoding: batches equal single prompts, cache equals no cache, captured hidden states."""

from __future__ import annotations

import pytest
import torch

from llmbind_cli.errors import InputDataError
from llmbind_cli.model.decode import decode

PROMPTS = [
    "draw a red apple",
    "hi",
    "a picture of waves, slow motion, please, and a cat",
    "Rain falls",
    "clouds",
    "Enjoy the picture of a cat",
    "draw draw draw",
    "a",
]


@pytest.fixture
def prompts(bound):
    return [bound.tokenizer(text)["input_ids"] for text in PROMPTS]


def test_batch_of_one_equals_batch_of_eight(bound, prompts):
    together = decode(bound, prompts, max_new_tokens=24)
    alone = [decode(bound, [prompt], max_new_tokens=24)[0] for prompt in prompts]
    assert [r.ids for r in together] == [r.ids for r in alone]
    assert [r.finished for r in together] == [r.finished for r in alone]


def test_sampling_depends_on_the_rows_own_seed_only(bound, prompts):
    seeds = list(range(8))
    options = {"max_new_tokens": 12, "temperature": 1.0}
    together = decode(bound, prompts, seeds=seeds, **options)
    backwards = decode(bound, prompts[::-1], seeds=seeds[::-1], **options)
    assert [r.ids for r in together] == [r.ids for r in backwards[::-1]]
    other = decode(bound, prompts, seeds=[seed + 100 for seed in seeds], **options)
    assert [r.ids for r in together] != [r.ids for r in other]


def test_the_cache_changes_nothing(bound, prompts):
    """The literal way: the whole sequence through the model at every step, no grammar needed."""
    from llmbind_cli.model.chat_format import stop_ids
    from llmbind_cli.model.token_grammar import TokenGrammar

    prompt = prompts[2]
    (reply,) = decode(bound, [prompt], max_new_tokens=10)
    grammar = TokenGrammar(bound.token_table, stop_ids(bound.tokenizer))
    states, ids = grammar.start([()], torch.device("cpu")), []
    with torch.inference_mode():
        for _ in range(10):
            logits = bound.language_model(torch.tensor([prompt + ids])).logits[:, -1]
            chosen = grammar.constrain(logits, states).argmax(dim=-1)
            states = grammar.next_states(states, chosen)
            if int(chosen) in grammar.stop_ids:
                break
            ids.append(int(chosen))
    assert reply.ids == ids


def force(bound, spelling):
    """Make one token the likeliest after any hidden state, by a large row in the output head."""
    head = bound.output_head
    index = list(bound.token_table.ids).index(spelling)
    bias = torch.zeros(head.rows.shape[0])
    bias[index] = 1e4
    column = bound.token_table.ids[spelling]
    return head.register_forward_hook(
        lambda _m, _a, logits: logits.index_add(
            -1, torch.tensor([column]), logits.new_full((*logits.shape[:-1], 1), 1e4)
        )
    )


def test_the_hidden_state_of_a_semantic_token_is_that_of_one_full_forward(bound, prompts):
    """LISA takes the last hidden state at the position that predicts the token."""
    handle = force(bound, "<seg>")
    replies = decode(bound, prompts, max_new_tokens=2)
    handle.remove()
    seg = bound.token_table.ids["<seg>"]
    for prompt, reply in zip(prompts, replies, strict=True):
        assert reply.ids == [seg, seg]
        with torch.inference_mode():
            full = bound.decoder(torch.tensor([prompt + reply.ids])).last_hidden_state[0]
        for position, state in reply.hidden_states.items():
            # fp32 sums in another order: padded batch with a cache against one row without.
            torch.testing.assert_close(
                state, full[len(prompt) + position - 1], rtol=1e-4, atol=1e-5
            )
        assert sorted(reply.hidden_states) == [0, 1]


def test_inside_a_pair_only_its_own_closing_token_can_end_it(bound, prompts):
    table = bound.token_table
    handle = force(bound, "</edit>")
    (reply,) = decode(bound, prompts[:1], max_new_tokens=4, openings=[[table.ids["<gen>"]]])
    handle.remove()
    assert reply.ids[:2] == [table.ids["<gen>"], table.ids["</gen>"]]
    assert table.ids["</edit>"] not in reply.ids


def test_outside_a_pair_a_closing_token_is_ruled_out(bound, prompts):
    handle = force(bound, "</gen>")
    (reply,) = decode(bound, prompts[:1], max_new_tokens=4)
    handle.remove()
    assert bound.token_table.ids["</gen>"] not in reply.ids


def test_a_reply_calls_no_task_but_those_it_may(bound, prompts):
    table = bound.token_table
    handle = force(bound, "<gen>")
    tasks = [None, {"segment"}, {"image"}, set()]
    replies = decode(bound, prompts[:4], max_new_tokens=3, tasks=tasks)
    handle.remove()
    called = [table.ids["<gen>"] in reply.ids for reply in replies]
    assert called == [True, False, True, False]


def test_tokens_are_reported_as_they_come(bound, prompts):
    seen = []
    replies = decode(
        bound, prompts[:3], max_new_tokens=6, on_token=lambda row, index: seen.append((row, index))
    )
    for row, reply in enumerate(replies):
        assert [index for r, index in seen if r == row] == reply.ids


def test_a_prompt_over_the_context_length_is_an_error(bound):
    with pytest.raises(InputDataError, match="has 500 tokens; this model reads at most 496"):
        decode(bound, [[5] * 500], max_new_tokens=16)


def test_no_prompts_give_no_replies(bound):
    assert decode(bound, [], max_new_tokens=4) == []
