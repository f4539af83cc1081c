"""Prompts read together: what they share once, each row as if it were alone."""

from __future__ import annotations

import pytest
import torch

from llmbind_cli.model.decode import decode
from llmbind_cli.model.prompt_reading import LANES, read_prompts, reads_together, width_with_gap

SHARED = list(range(40, 52))
LENGTHS = (1, 2, 9, 20, 3, 36, 20)


@pytest.fixture
def prompts():
    return [SHARED + [60 + row + place for place in range(n)] for row, n in enumerate(LENGTHS)]


def columns_read(bound, prompts):
    """Return the shapes of the ids that went through the decoder, and what came of them."""
    shapes = []
    hook = bound.decoder.register_forward_pre_hook(
        lambda _module, _arguments, keywords: shapes.append(tuple(keywords["input_ids"].shape)),
        with_kwargs=True,
    )
    with torch.inference_mode():
        read = read_prompts(bound, prompts)
    hook.remove()
    return shapes, read


def test_every_row_has_a_gap_and_replies_start_in_a_first_lane():
    for length in range(1, 100):
        assert width_with_gap(length) % LANES == 0
        assert 0 < width_with_gap(length) - length <= LANES


def test_what_prompts_share_is_read_once(bound, prompts):
    shapes, read = columns_read(bound, prompts)
    opening, *rest = shapes
    assert opening == (1, width_with_gap(len(SHARED)))
    # 13, 14 and 15 ids take 16 columns, 21 take 32, twice 32 take 48, and 48 take 64.
    assert sorted(rest) == [(1, 20), (1, 52), (2, 36), (3, 4)]
    assert read.positions.tolist() == [len(prompt) for prompt in prompts]
    assert read.attention_mask.sum(dim=1).tolist() == read.positions.tolist()


def test_one_prompt_is_one_forward_pass(bound, prompts):
    shapes, _ = columns_read(bound, prompts[3:4])
    assert shapes == [(1, width_with_gap(len(prompts[3])))]


def test_prompts_that_are_alike_or_share_nothing_are_read_too(bound):
    with torch.inference_mode():
        for prompts in ([[40, 41], [40, 41]], [[40], [41, 42]]):
            read = read_prompts(bound, prompts)
            for row, prompt in enumerate(prompts):
                full = bound.decoder(torch.tensor([prompt])).last_hidden_state[0, -1]
                # fp32 sums in another order.
                torch.testing.assert_close(read.hidden_states[row], full, rtol=1e-4, atol=1e-5)


def test_states_are_those_of_a_plain_forward_pass(bound, prompts):
    _, read = columns_read(bound, prompts)
    with torch.inference_mode():
        for row, prompt in enumerate(prompts):
            full = bound.decoder(torch.tensor([prompt])).last_hidden_state[0, -1]
            torch.testing.assert_close(read.hidden_states[row], full, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_a_row_is_the_same_to_the_last_bit_alone(bound, prompts):
    bound.language_model.to(torch.bfloat16)
    with torch.inference_mode():
        together = read_prompts(bound, prompts).hidden_states
        alone = [read_prompts(bound, [prompt]).hidden_states[0] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone))


def test_in_bfloat16_every_step_is_the_same_to_the_last_bit_alone(bound, prompts):
    bound.language_model.to(torch.bfloat16)
    column = bound.token_table.ids["<seg>"]
    # A reply of segmentation tokens alone keeps the hidden state of each step.
    hook = bound.output_head.register_forward_hook(
        lambda _module, _arguments, logits: logits.index_fill(-1, torch.tensor([column]), 1e4)
    )
    together = decode(bound, prompts, max_new_tokens=20)
    for prompt, reply in zip(prompts, together, strict=True):
        (alone,) = decode(bound, [prompt], max_new_tokens=20)
        assert sorted(reply.hidden_states) == list(range(20))
        for step, state in alone.hidden_states.items():
            assert torch.equal(state, reply.hidden_states[step]), step
    hook.remove()


def test_a_short_sliding_window_is_read_row_by_row_and_replies_stay(bound, prompts):
    config = bound.language_model.config
    if config.model_type != "mistral":
        pytest.skip("only Mistral's windows slide here")
    wide = decode(bound, prompts, max_new_tokens=8)
    assert reads_together(bound, 512)
    config.sliding_window = 24
    assert not reads_together(bound, 512)
    narrow = decode(bound, prompts, max_new_tokens=8)
    for row, prompt in enumerate(prompts):
        alone = decode(bound, [prompt], max_new_tokens=8)[0].ids
        assert narrow[row].ids == alone == literal_reply(bound, prompt, steps=8)
        if len(prompt) + 8 <= 24:
            assert narrow[row].ids == wide[row].ids


def literal_reply(bound, prompt, *, steps):
    """Answer greedily from a forward pass over all ids at each step."""
    from llmbind_cli.model.chat_format import stop_ids
    from llmbind_cli.model.token_grammar import TokenGrammar

    grammar = TokenGrammar(bound.token_table, stop_ids(bound.tokenizer))
    states, ids = grammar.start([()], torch.device("cpu")), []
    with torch.inference_mode():
        while len(ids) < steps:
            logits = bound.language_model(torch.tensor([prompt + ids])).logits[:, -1]
            chosen = grammar.constrain(logits, states).argmax(dim=-1)
            states = grammar.next_states(states, chosen)
            if int(chosen) in grammar.stop_ids:
                break
            ids.append(int(chosen))
    return ids
