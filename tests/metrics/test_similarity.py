"""Cosines of pairs and of differences, beside plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmbind_cli.metrics.similarity import cosines, direction_cosines


def vectors(n, seed):
    made = np.random.default_rng(seed).normal(size=(n, 7))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def literal_cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_cosines_equal_plain_python():
    a, b = 3 * vectors(5, 0), vectors(5, 1)
    expected = [literal_cosine(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(cosines(a, b), expected, atol=1e-15)
    np.testing.assert_allclose(cosines(a, -2 * a), -1)


def test_directions_equal_plain_python():
    sides = [vectors(6, seed) for seed in range(4)]
    ours = direction_cosines(*sides)
    expected = [
        literal_cosine(after - before, asked - was)
        for before, after, was, asked in zip(*sides, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, atol=1e-15)


def test_an_edit_that_changes_nothing_counts_0():
    a, b, c = vectors(2, 0), vectors(2, 1), vectors(2, 2)
    assert direction_cosines(a, a, b, c).tolist() == [0, 0]
    assert direction_cosines(a, b, c, c).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((2, 3)), np.ones((2, 3))),
        (np.ones((2, 3)), np.ones((3, 3))),
        (np.full((1, 3), np.nan), np.ones((1, 3))),
        (np.ones(3), np.ones(3)),
    ],
)
def test_what_has_no_cosine_is_refused(a, b):
    with pytest.raises(ValueError, match="vectors"):
        cosines(a, b)
