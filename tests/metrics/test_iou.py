"""Overlap of masks beside LISA's accumulation and the literal sets of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbind_cli.metrics.iou import IouResult, ciou_giou, pair_counts

SIZES = [(9, 7), (4, 4), (1, 1), (3, 11)]


def random_pairs(seed: int = 0):
    generator = np.random.default_rng(seed)
    pairs = []
    for size in SIZES * 3:
        prediction = generator.random(size) < 0.4
        target = generator.choice([0, 1, 255], size=size, p=[0.5, 0.3, 0.2]).astype(np.uint8)
        pairs.append((prediction, target))
    return pairs


def lisa_accumulation(pairs):
    """LISA 3cb2d43: utils.intersectionAndUnionGPU by histograms, train_ds.validate's meters."""
    intersections, unions, ious = np.zeros(2), np.zeros(2), []
    for prediction, target in pairs:
        output, truth = prediction.astype(float).ravel(), target.astype(float).ravel()
        output[truth == 255] = 255
        both = output[output == truth]
        bins = {"bins": 2, "range": (0, 1)}
        overlap = np.histogram(both[both <= 1], **bins)[0]
        area = np.histogram(output[output <= 1], **bins)[0]
        area = area + np.histogram(truth[truth <= 1], **bins)[0]
        union = area - overlap
        intersections += overlap
        unions += union
        ious.append(1.0 if union[1] == 0 else overlap[1] / union[1])
    return intersections[1] / unions[1], float(np.mean(ious))


def test_scores_equal_lisa_s_accumulation():
    pairs = random_pairs()
    result = ciou_giou(pairs)
    assert result == pytest.approx((*lisa_accumulation(pairs), len(pairs)), rel=1e-14)


def test_counts_equal_the_sets_of_pixels():
    for prediction, target in random_pairs(1):
        kept = {tuple(place) for place in np.argwhere(target != 255)}
        made = {tuple(place) for place in np.argwhere(prediction)} & kept
        true = {tuple(place) for place in np.argwhere(target == 1)}
        assert pair_counts(prediction, target) == (len(made & true), len(made | true))


def test_a_value_by_hand():
    # I/U: 1/3, then 2/2; the pixel with 255 counts for nobody.
    first = np.array([[1, 1, 0, 1]]), np.array([[1, 0, 1, 255]])
    second = np.array([[True, True]]), np.array([[1, 1]])
    assert ciou_giou([first, second]) == IouResult(ciou=3 / 5, giou=(1 / 3 + 1) / 2, n=2)


def test_empty_masks_follow_the_stated_rule():
    empty, full = np.zeros((2, 3), bool), np.ones((2, 3), np.uint8)
    assert ciou_giou([(empty, empty)]) == (1.0, 1.0, 1)
    assert ciou_giou([(full, empty), (empty, empty)]) == (0.0, 0.5, 2)
    assert ciou_giou([(empty, full)]) == (0.0, 0.0, 1)
    assert ciou_giou([(full, np.full((2, 3), 255))]) == (1.0, 1.0, 1)
    assert ciou_giou([(full.ravel(), empty.ravel())]) == (0.0, 0.0, 1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_arrays_and_tensors_give_the_same(dtype):
    pairs = [(p, t == 1) for p, t in random_pairs(2)]
    tensors = [(torch.from_numpy(p).to(dtype), torch.from_numpy(t).to(dtype)) for p, t in pairs]
    assert ciou_giou(iter(tensors)) == ciou_giou(pairs)


def test_order_does_not_matter_and_swapping_changes_nothing():
    pairs = [(p, t == 1) for p, t in random_pairs(3)]
    result = ciou_giou(pairs)
    assert ciou_giou(pairs[::-1]) == pytest.approx(result, rel=1e-14)
    assert ciou_giou([(t, p) for p, t in pairs]) == result


def test_what_would_be_misread_is_refused():
    with pytest.raises(ValueError, match="no mask"):
        ciou_giou([])
    with pytest.raises(ValueError, match=r"one size, got \(2, 3\) and \(3, 2\)"):
        ciou_giou([(np.ones((2, 3)), np.ones((3, 2)))])
    with pytest.raises(ValueError, match="holds scores"):
        ciou_giou([(np.full((2, 3), 0.7), np.ones((2, 3)))])
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        ciou_giou([(np.ones((1, 2, 3)), np.ones((1, 2, 3)))])  # a batch is not one mask
    with pytest.raises(ValueError, match="bools or labels"):
        ciou_giou([(np.array([["a"]]), np.ones((1, 1)))])


def test_inputs_stay_as_they_are():
    prediction, target = random_pairs(4)[0]
    before = prediction.copy(), target.copy()
    pair_counts(prediction, target)
    np.testing.assert_array_equal(prediction, before[0])
    np.testing.assert_array_equal(target, before[1])
