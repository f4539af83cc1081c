"""Masks at the edges of their pictures: beside a literal reading of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmbind_cli.nn.guided_filter import guided_masks


def literal(coarse, colours, radius, eps):
    """Guided Image Filtering for one mask on its own grid, window by window, in float64."""
    height, width = coarse.shape

    def window(row, column):
        return (
            slice(max(0, row - radius), row + radius + 1),
            slice(max(0, column - radius), column + radius + 1),
        )

    slopes, levels = np.zeros((height, width, 3)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            seen, wanted = colours[window(row, column)].reshape(-1, 3), coarse[window(row, column)]
            spread = np.cov(seen.T, bias=True) + eps * np.eye(3)
            shared = (seen * wanted.reshape(-1, 1)).mean(0) - seen.mean(0) * wanted.mean()
            slopes[row, column] = np.linalg.solve(spread, shared)
            levels[row, column] = wanted.mean() - slopes[row, column] @ seen.mean(0)
    filtered = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            around = window(row, column)
            slope = slopes[around].reshape(-1, 3).mean(0)
            filtered[row, column] = slope @ colours[row, column] + levels[around].mean()
    return filtered


@pytest.mark.parametrize("radius", [1, 3, 20])
def test_masks_are_those_of_the_paper_on_the_grid_itself(radius):
    draw = np.random.default_rng(radius)
    picture = draw.integers(0, 256, (3, 12, 15), np.uint8)
    coarse = draw.random((2, 12, 15))
    found = guided_masks(
        torch.from_numpy(coarse).float(), torch.from_numpy(picture), radius=radius, eps=1e-3
    )
    colours = picture.transpose(1, 2, 0) / 255
    for mask, wanted in zip(found.numpy(), coarse, strict=True):
        filtered = literal(wanted, colours, radius, 1e-3)
        certain = abs(filtered - 0.5) > 1e-4
        assert certain.mean() > 0.98
        np.testing.assert_array_equal(mask[certain], (filtered > 0.5)[certain])


def test_a_blurred_mask_finds_the_edge_of_its_thing():
    """A red disc on green ground, whose mask has one value for 8 × 8 pixels."""
    down, across = np.mgrid[:128, :128]
    disc = (down - 61) ** 2 + (across - 70) ** 2 < 30**2
    picture = np.where(disc, [[[220]], [[30]], [[40]]], [[[60]], [[170]], [[90]]]).astype(np.uint8)
    coarse = torch.from_numpy(disc.reshape(16, 8, 16, 8).mean((1, 3))).float()
    coarse = torch.nn.functional.avg_pool2d(coarse[None], 3, 1, 1)  # and blurred
    (found,) = guided_masks(coarse, torch.from_numpy(picture), radius=3, eps=1e-5).numpy()
    assert (found ^ disc).sum() < 0.002 * disc.sum()
    (plain,) = torch.nn.functional.interpolate(coarse[None], (128, 128), mode="bilinear")[0] > 0.5
    assert (plain.numpy() ^ disc).sum() > 10 * (found ^ disc).sum()


def test_a_picture_of_one_colour_leaves_the_mask():
    coarse = torch.zeros(1, 8, 8)
    coarse[:, :, :4] = 1.0
    grey = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    (found,) = guided_masks(coarse, grey, radius=1, eps=1e-5)
    assert found[:, :16].all()
    assert not found[:, 16:].any()


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (300, 40)])
def test_masks_have_the_size_of_their_picture(size):
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    assert guided_masks(torch.rand(2, 8, 6), picture, radius=3, eps=1e-5).shape == (2, *size)
    assert guided_masks(torch.rand(0, 8, 6), picture, radius=3, eps=1e-5).shape == (0, *size)
