"""Cells of a picture → a list of the things in it."""

from __future__ import annotations

import pytest
import torch

from llmbind_cli.nn.object_projector import CellScores, FoundObjects, ObjectProjector, alike

NAMES, COLOURS, PIECES, MOST, WIDTH = 5, 3, 2, 3, 4
READ = 256 + 7
"""Width of what the projector makes of a cell."""


@pytest.fixture
def projector():
    torch.manual_seed(0)
    made = ObjectProjector(
        width=7, hidden_size=WIDTH, most=MOST, names=NAMES, colours=COLOURS, pieces=PIECES
    )
    made.match_scale(0.5)
    made.colouring = torch.nn.Linear(READ, COLOURS)  # the first entries of a cell are its colour
    made.colouring.weight.data = torch.eye(COLOURS, READ)
    made.gathering.fall.data.fill_(3.0)  # a middle is alone
    return made.requires_grad_(False)


def scored(side, *things):
    """Scores of one picture; each thing is (row, column, name, colour)."""
    centres = torch.full((1, side, side), -8.0)
    names, colours = torch.zeros(1, side, side, NAMES), torch.zeros(1, side, side, READ)
    for sureness, (row, column, name, colour) in enumerate(things):
        centres[0, row, column] = 5.0 - sureness
        for table, number in ((names, name), (colours, colour)):
            table[0, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2, number] = 90.0
    return CellScores(centres, torch.full((1, side, side, 2), 0.5), names, colours)


def test_peaks_are_found_surest_first(projector):
    scores = scored(8, (1, 6, 2, 0), (5, 1, 4, 1))
    scores.centres[0, 1, 5] = 4.5  # beside a higher one: no peak
    found = projector.find(scores)
    assert found.present.tolist() == [[True, True, False]]
    torch.testing.assert_close(found.places[0, :2], torch.tensor([[6.5, 1.5], [1.5, 5.5]]) / 8)
    assert found.names[0].argmax(1)[:2].tolist() == [2, 4]
    assert found.colours[0].argmax(1)[:2].tolist() == [0, 1]


def test_no_more_are_listed_than_there_is_room_for(projector):
    spots = [(row, column, 0, 0) for row in (1, 5) for column in (1, 5)]
    found = projector.find(scored(8, *spots))
    assert found.present.all()
    assert not projector.find(scored(8)).present.any()


def test_a_list_goes_from_left_to_right_and_from_top_to_bottom(projector):
    """All words are the tables' rows; what is not there is zeros."""
    found = projector.find(scored(8, (1, 6, 2, 0), (5, 1, 4, 1)))
    (told,) = projector.listed(found)
    assert len(told) == projector.num_tokens == MOST * (2 * PIECES + 2) + 4
    left, right, top, bottom = projector.edge_words.split(1)
    spelled, coloured = projector.spellings, projector.colour_words.split(1)
    one = projector.count_words[:1]
    none = torch.zeros(1, WIDTH)
    across = [spelled[4], coloured[1], one, spelled[2], coloured[0], one]
    down = [spelled[2], spelled[4]]
    expected = [left, *across, none.expand(PIECES + 2, -1), right]
    expected += [top, *down, none.expand(PIECES, -1), bottom]
    torch.testing.assert_close(told, torch.cat(expected))


def test_things_of_one_name_are_counted(projector):
    found = projector.find(scored(8, (1, 6, 2, 0), (5, 1, 2, 1), (5, 5, 4, 1)))
    (told,) = projector.listed(found)
    # From left to right: the second, the third and the first of them.
    counts = told[1 + PIECES + 1 :: PIECES + 2][:MOST]
    torch.testing.assert_close(counts, projector.count_words[[1, 0, 1]])


def test_equal_things_that_are_named_differently_are_counted_together(projector):
    """Three of one thing that has no name here, each nearest to another: they get one name."""
    shares = torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0], [0.3, 0.4, 0.2, 0.1, 0.0], [0, 0, 0, 0, 1.0]])
    middles = [(1, 6), (5, 1), (5, 5)]
    scores = scored(8, *((*middle, 0, 0) for middle in middles))
    for (row, column), share in zip(middles, shares, strict=True):
        scores.names[0, row - 1 : row + 2, column - 1 : column + 2] = share.log().clamp(min=-30)
    found = projector.find(scores)
    order = found.places[0, :, 0].argsort()  # from left to right: the second, the third, the first
    assert alike(found)[0][order][:, order].int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    names = found.names[0, order]
    torch.testing.assert_close(names[0], shares[:2].mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(names[0], names[2])
    (told,) = projector.listed(found)
    counts = told[1 + PIECES + 1 :: PIECES + 2][:MOST]
    torch.testing.assert_close(counts, projector.count_words[[1, 0, 1]])


def test_a_middle_gathers_what_its_cells_tell(projector):
    """At first by nearness alone; then also by what they show, be they far away."""
    scores = scored(8, (4, 4, 2, 0))
    scores.cells[:] = 0
    scores.cells[0, 0, 0, 1] = 9.0  # far from the middle
    rows = columns = torch.tensor([[4]])
    gathering = projector.gathering
    gathering.fall.data.fill_(-0.5)
    shares = gathering(scores.cells, rows, columns)
    assert shares.shape == (1, 1, 64)
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
    grid = shares.view(8, 8)
    assert grid.argmax() == 4 * 8 + 4
    torch.testing.assert_close(grid[3, 4], grid[4, 5])
    torch.testing.assert_close(grid[3, 4] / grid[4, 4], (-gathering.fall.exp()).exp())
    assert projector.described(scores, rows, columns)[1].argmax() != 1
    scores.cells[0, 4, 4, 2] = 1.0
    gathering.query.weight.data[0, 2] = 1.0
    gathering.key.weight.data.zero_()
    gathering.key.weight.data[0, 1] = 9.0
    assert projector.described(scores, rows, columns)[1].argmax() == 1


def test_pictures_are_listed_each_by_itself(projector):
    features = torch.randn(3, 16, 7)
    together = projector(features)
    assert together.shape == (3, projector.num_tokens, WIDTH)
    for row, alone in zip(together, features, strict=True):
        torch.testing.assert_close(projector(alone[None])[0], row)


def test_what_names_a_thing_learns_from_what_was_said_of_it(projector):
    projector.requires_grad_(True)
    projector.finding.bias.data[0] = 3.0  # each cell is sure: some of them are peaks
    projector(torch.randn(2, 16, 7)).square().sum().backward()
    learned = ("naming.weight", "colouring.weight", "gathering.query.weight", "gathering.fall")
    for name in (*learned, *projector.tables()):
        assert projector.get_parameter(name).grad.abs().sum() > 0, name


def test_places_are_told_by_order_alone(projector):
    """Two lists of the same things differ only where their order does."""
    places = torch.tensor([[[0.1, 0.2], [0.8, 0.9], [0.5, 0.5]]])
    things = FoundObjects(
        present=torch.ones(1, MOST, dtype=torch.bool),
        places=places,
        names=torch.eye(NAMES)[None, :MOST],
        colours=torch.eye(COLOURS)[None, :MOST],
    )
    nearer = things._replace(places=places * 0.5)
    mirrored = things._replace(places=torch.stack([1 - places[..., 0], places[..., 1]], dim=2))
    one, same, other = map(projector.listed, (things, nearer, mirrored))
    torch.testing.assert_close(one, same)
    first = MOST * (PIECES + 2) + 2
    assert not torch.equal(one[:, :first], other[:, :first])
    torch.testing.assert_close(one[:, first:], other[:, first:])


def test_what_cannot_be_is_refused(projector):
    with pytest.raises(ValueError, match="15 cells are no square grid"):
        projector(torch.randn(1, 15, 7))
    with pytest.raises(ValueError, match="must be ≥ 1"):
        ObjectProjector(width=7, hidden_size=4, most=0, names=1, colours=1, pieces=1)
