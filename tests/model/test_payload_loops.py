"""Inside a call a run of ids comes once; outside, and in another call, it may come again."""

from __future__ import annotations

import pytest
import torch

from llmbind_cli.model.decode import decode
from llmbind_cli.model.payload_loops import RUN, PayloadLoops

VOCABULARY = 40
LOOP = [3, 5, 7, 9]


def follow(loops, ids, *, inside=True):
    for index in ids:
        state = torch.tensor([int(inside)])
        loops.follow(torch.tensor([index]), state, state)


def ruled_out(loops):
    (row,) = loops.constrain(torch.zeros(1, VOCABULARY)).isneginf()
    return row.nonzero().flatten().tolist()


def test_what_would_repeat_a_run_is_ruled_out():
    loops = PayloadLoops(1, torch.device("cpu"))
    follow(loops, LOOP + LOOP)
    assert ruled_out(loops) == []  # five ids have come again, not yet six
    follow(loops, LOOP[:1])
    assert ruled_out(loops) == [LOOP[1]]


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_a_search_id_by_id(seed):
    chance = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 2, (30,), generator=chance).tolist()
    loops = PayloadLoops(1, torch.device("cpu"))
    for length in range(1, len(ids) + 1):
        follow(loops, ids[length - 1 : length])
        past = ids[:length]
        runs = {tuple(past[n : n + RUN]) for n in range(length - RUN + 1)}
        wanted = [i for i in range(VOCABULARY) if (*past[1 - RUN :], i) in runs]
        assert ruled_out(loops) == wanted


def test_what_is_said_outside_of_calls_may_repeat():
    loops = PayloadLoops(1, torch.device("cpu"))
    follow(loops, LOOP * 4, inside=False)
    assert ruled_out(loops) == []


def test_another_call_may_say_the_same():
    loops = PayloadLoops(1, torch.device("cpu"))
    inside, outside = torch.tensor([1]), torch.tensor([0])
    follow(loops, [*LOOP, 11, 13])
    loops.follow(torch.tensor([30]), inside, outside)  # the closing token
    loops.follow(torch.tensor([31]), outside, inside)  # the next opening one
    follow(loops, [*LOOP, 11])
    assert ruled_out(loops) == []


def test_replies_that_go_on_keep_what_they_held():
    loops = PayloadLoops(2, torch.device("cpu"))
    inside = torch.tensor([1, 1])
    for first, second in zip(LOOP * 3, range(20, 32), strict=True):
        loops.follow(torch.tensor([first, second]), inside, inside)
    loops.keep(torch.tensor([0]))
    assert ruled_out(loops) == [LOOP[0]]


def test_a_call_ends_that_would_run_in_circles(bound):
    """A model that says one word for ever, and would close the call as its second choice."""
    table = bound.token_table
    word = bound.tokenizer("a")["input_ids"][-1]
    wishes = {word: 2e4, table.ids["</gen>"]: 1e4}

    def steer(_module, _inputs, logits):
        for index, wish in wishes.items():
            logits[..., index] += wish
        return logits

    handle = bound.output_head.register_forward_hook(steer)
    opening = [table.ids["<gen>"]]
    (reply,) = decode(bound, [[5]], max_new_tokens=20, openings=[opening], tasks=[{"image"}])
    handle.remove()
    assert reply.ids[: RUN + 2] == [*opening, *[word] * RUN, table.ids["</gen>"]]
