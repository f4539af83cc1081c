"""A cache for replies holds what transformers' own would, and shows it in whole blocks."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llmbind_cli.model.prompt_reading import LANES
from llmbind_cli.model.reply_cache import reply_cache


def columns(count, rows=3):
    return torch.randn(rows, 2, count, 4), torch.randn(rows, 2, count, 4)


@pytest.fixture
def caches():
    torch.manual_seed(0)
    usual = DynamicCache()
    usual.layers = [DynamicLayer(), DynamicLayer()]
    for layer in range(2):
        usual.update(*columns(LANES), layer)
    return usual, reply_cache(usual)


def test_it_holds_what_the_usual_one_would(caches):
    usual, following = caches
    for step in (1, 7, LANES, 2):
        for layer in range(2):
            new = columns(step, rows=len(usual.layers[0].keys))
            wanted, seen = usual.update(*new, layer), following.update(*new, layer)
            for one, other in zip(wanted, seen, strict=True):
                assert torch.equal(other[:, :, : one.shape[2]], one)
        for cache in caches:
            cache.crop(-1)
            cache.batch_select_indices(torch.tensor([0, 1]))
        assert following.get_seq_length() == usual.get_seq_length()


@pytest.mark.parametrize("places", [False, True])
def test_what_is_seen_ends_with_a_block_as_the_mask_is_told(caches, places):
    _, following = caches
    for step in (1, 2, LANES - 4, 1, 1):
        told = torch.arange(step) if places else step
        sizes = following.layers[0].get_mask_sizes(told)
        keys, values = following.update(*columns(step), 0)
        assert sizes == (keys.shape[2], 0)
        assert keys.shape == values.shape
        assert keys.shape[2] % LANES == 0
        assert 0 <= keys.shape[2] - following.get_seq_length() < LANES
