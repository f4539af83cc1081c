"""The proportions of an epoch are exact, and no sample comes twice before all came once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbind_cli.data.mixture import Mixture


def test_without_weights_an_epoch_is_every_sample_once():
    mixture = Mixture(sizes=[5, 3], weights=None, seed=0)
    assert len(mixture) == 8
    assert sorted(mixture.epoch(0)) == sorted(mixture.epoch(7)) == list(range(8))
    assert mixture.epoch(0) != mixture.epoch(1)


def test_the_papers_proportions():
    # semantic : referring : reasoning = 9 : 3 : 1, and of the three parts each a third (4.1)
    mixture = Mixture(sizes=[900, 40, 7, 1300, 1300], weights=[9, 3, 1, 13, 13], seed=1)
    assert mixture.counts == (900, 300, 100, 1300, 1300)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 9)), min_size=1, max_size=5),
    st.integers(0, 3),
)
def test_each_epoch_has_the_same_shares(sources, seed):
    sizes, weights = zip(*sources, strict=True)
    mixture = Mixture(sizes=sizes, weights=weights, seed=seed)
    owners = [index for index, size in enumerate(sizes) for _ in range(size)]
    for epoch in range(3):
        held = Counter(owners[number] for number in mixture.epoch(epoch))
        assert tuple(held[i] for i in range(len(sizes))) == mixture.counts
    total = sum(weights)
    for count, weight in zip(mixture.counts, weights, strict=True):
        assert abs(count - len(mixture) * weight / total) < 1
    # One sample of rounding at most is missing from a pass over the largest source.
    assert all(count >= size - 1 for count, size in zip(mixture.counts, sizes, strict=True))


def test_a_source_gives_all_its_samples_before_one_comes_again():
    mixture = Mixture(sizes=[7, 20], weights=[1, 1], seed=2)
    small = [n for epoch in range(7) for n in mixture.epoch(epoch) if n < 7]
    for start in range(0, len(small) - 7, 7):
        assert sorted(small[start : start + 7]) == list(range(7))


@pytest.mark.parametrize(
    ("sizes", "weights"), [([], None), ([0], None), ([3], [0.0]), ([3, 4], [1.0])]
)
def test_impossible_mixtures_are_refused(sizes, weights):
    with pytest.raises(ValueError, match="must be"):
        Mixture(sizes=sizes, weights=weights, seed=0)
