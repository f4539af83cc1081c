"""The object projector: cells of a picture → a list of the things in it, in the LLM's own words.

Where a scene is a handful of things, a language model of small size learns to answer from a list
of them in a fraction of the steps that it needs to answer from a grid of cells. So things are found
as the peaks of a map of centres (Objects as Points, arXiv 1904.07850), and what each is called is
a softmax over a table of spellings (visual words, as in Ovis, arXiv 2405.20797, section 3, with a
row for each token of a name instead of one for the whole): the model then reads, finds and repeats
a name as it does one that a person wrote. What a thing is called, and which colour it has, is told
by its cells together, which its middle gathers by attention: the nine cells around a middle know
little of the colour of a large thing.

A picture becomes

    [left] N × (L tokens of the name, colour, how many) [right]
    [top] N × (L tokens of the name) [bottom]

the things once from left to right and once from top to bottom. A short name stands at the end of
its ``L`` positions, right before what is told of it; positions without a word are zeros. How many
bear the name could be found from the list itself, but a small model learns to count far more slowly
than to look up a word. Where things are is told by their order alone.

Notation: ``B`` pictures, ``K`` cells of a square grid of side ``G``, ``W`` width of a cell as it is
read, ``V`` width of what is made of it, ``N`` things listed, ``T`` names, ``L`` tokens of a name,
``C`` colours, ``D`` width of the LLM.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.nn.list_pointer import ListedThings, tell
from llmbind_cli.nn.tuned_stage import TunedStage

PRESENT = 0.3
"""Score of a centre from which on a thing is listed."""

_ALIKE = 0.2
"""Bhattacharyya coefficient of two things' shares of names from which on they bear the same one."""

_INNER, _KEY, _HIDDEN = 256, 64, 128
_RARE = -3.0
"""Logit of a centre before anything is learned: few cells are one."""


class CellScores(NamedTuple):
    """What each cell says of the thing that covers it.

    Attributes:
        centres: Logits that a thing has its middle in the cell, [B, G, G].
        offsets: Where in the cell that middle is, x and y in [0, 1], [B, G, G, 2].
        names: Logits of names, [B, G, G, T].
        cells: What it looks like, and what is around it, [B, G, G, V].
    """

    centres: Tensor
    offsets: Tensor
    names: Tensor
    cells: Tensor


class FoundObjects(NamedTuple):
    """The things found in pictures, surest first.

    Attributes:
        present: Whether there is an n-th one, bool [B, N].
        places: Its middle over the sides of the picture, x and y, [B, N, 2].
        names: Shares of names, [B, N, T].
        colours: Shares of colours, [B, N, C].
    """

    present: Tensor
    places: Tensor
    names: Tensor
    colours: Tensor


class ObjectProjector(nn.Module):
    """Features of a tower → positions of the LLM that list things.

    Args:
        width: ``W``, ≥ 1.
        hidden_size: ``D``, ≥ 1.
        most: ``N``, ≥ 1.
        names: ``T``, ≥ 1.
        colours: ``C``, ≥ 1.
        pieces: ``L``, ≥ 1.
        stage: Makes cells of ``width`` of what the tower hands over; without it they are read as
            they come.

    Raises:
        ValueError: A number is below 1.
    """

    def __init__(
        self, *, width: int, hidden_size: int, most: int, names: int, colours: int, pieces: int,
        stage: TunedStage | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(width, hidden_size, most, names, colours, pieces) < 1:
            raise ValueError(
                f"width, hidden_size, most, names, colours and pieces must be ≥ 1, got {width}, "
                f"{hidden_size}, {most}, {names}, {colours} and {pieces}"
            )
        self.most, self.pieces = most, pieces
        self.stage = stage
        self.around = nn.Conv2d(width, _INNER, 3, padding=1)
        self.norm = nn.GroupNorm(1, _INNER)
        self.finding = nn.Linear(_INNER, 3)
        self.naming = nn.Linear(_INNER + width, names)
        self.gathering = _Gathering(_INNER + width)
        self.colouring = nn.Sequential(
            nn.LayerNorm(_INNER + width),
            nn.Linear(_INNER + width, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, colours),
        )
        self.spellings = nn.Parameter(torch.zeros(names, pieces, hidden_size))
        self.colour_words = nn.Parameter(torch.zeros(colours, hidden_size))
        self.count_words = nn.Parameter(torch.zeros(most, hidden_size))
        self.edge_words = nn.Parameter(torch.zeros(4, hidden_size))

    @property
    def num_tokens(self) -> int:
        """Positions that a picture takes."""
        return self.most * (2 * self.pieces + 2) + 4

    def tables(self) -> dict[str, nn.Parameter]:
        """Return the tables of words by their names; the other parameters find and name things."""
        names = ("spellings", "colour_words", "count_words", "edge_words")
        return {name: self.get_parameter(name) for name in names}

    @torch.no_grad()
    def match_scale(self, rms: float) -> None:
        """Let the table's rows be about as large as the LLM's own word embeddings.

        Args:
            rms: Root mean square of the entries of the LLM's embedding matrix.
        """
        for table in self.tables().values():
            table.normal_(std=rms)
        self.finding.bias.copy_(torch.tensor([_RARE, 0.0, 0.0]))

    def forward(self, features: Tensor) -> Tensor:
        """Features of a tower, the cells of a square grid row after row → [B, num_tokens, D].

        Raises:
            ValueError: The cells are no square grid.
        """
        return self.listed(self.found(features))

    def refined(self, features: Tensor) -> Tensor:
        """Return what is read of a tower's features, [B, K, W]."""
        return features if self.stage is None else self.stage(features)

    def listed(self, found: FoundObjects) -> Tensor:
        """Spell out what was found: → [B, num_tokens, D]."""
        here = found.present[..., None].to(found.names)  # [B, N, 1]
        spelled = torch.einsum("bnt,tld->bnld", found.names * here, self.spellings)
        coloured = (found.colours * here) @ self.colour_words  # [B, N, D]
        counted = self.count_words[(alike(found).sum(2) - 1).clamp(min=0)] * here
        told = torch.stack([coloured, counted], dim=2)  # [B, N, 2, D]
        across = _in_order(torch.cat([spelled, told], dim=2), found, axis=0)
        down = _in_order(spelled, found, axis=1)
        left, right, top, bottom = self.edge_words.expand(len(here), -1, -1).tensor_split(4, dim=1)
        return torch.cat([left, across, right, top, down, bottom], dim=1)

    def things(self, found: FoundObjects) -> ListedThings:
        """Return what the list tells of the things that were found."""
        pieces = self.spellings.any(2).sum(1, keepdim=True).clamp(min=1)
        words = self.spellings.sum(1) / pieces  # [T, D]
        told = tell(
            found.names @ (words - words.mean(0)),
            found.colours @ (self.colour_words - self.colour_words.mean(0)),
            found.names,
            found.places,
            found.present,
        )
        return ListedThings(told, found.places, found.present)

    def found(self, features: Tensor) -> FoundObjects:
        """Find the things that a tower's features show, [B, K, W]; errors as of the whole."""
        return self.find(self.scores(self.refined(features)))

    def scores(self, features: Tensor) -> CellScores:
        """Score each of the :meth:`refined` cells, [B, K, W]; errors as above."""
        side = math.isqrt(features.shape[1])
        if side * side != features.shape[1]:
            raise ValueError(f"{features.shape[1]} cells are no square grid")
        cells = features.reshape(len(features), side, side, -1)  # [B, G, G, W]
        inner = functional.gelu(self.norm(self.around(cells.movedim(3, 1)))).movedim(1, 3)
        centres, *offsets = self.finding(inner).unbind(3)
        both = torch.cat([inner, cells], dim=3)
        return CellScores(
            centres=centres,
            offsets=torch.stack(offsets, dim=3).sigmoid(),
            names=self.naming(both),
            cells=both,
        )

    def described(self, scores: CellScores, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Tell what the things are whose middles lie in some cells.

        Args:
            scores: Of :meth:`scores`.
            rows: Of the cells, int64 [B, N].
            columns: Of the cells, int64 [B, N].

        Returns:
            Logits of names, [B, N, T], and of colours, [B, N, C].
        """
        shares = self.gathering(scores.cells, rows, columns)  # [B, N, G²]
        names = shares @ scores.names.log_softmax(3).flatten(1, 2)
        colours: Tensor = self.colouring(shares @ scores.cells.flatten(1, 2))
        return names, colours

    def find(self, scores: CellScores) -> FoundObjects:
        """Take the peaks of the centres, each named by its cells and those of things like it.

        There must be ``N`` cells at least.
        """
        likely = scores.centres.sigmoid()
        side = likely.shape[1]
        highest = functional.max_pool2d(likely[:, None], 3, stride=1, padding=1)[:, 0]
        peaks = likely.where((likely == highest) & (likely > PRESENT), 0.0).flatten(1)
        best, cells = peaks.topk(self.most, dim=1)  # [B, N]
        rows, columns = cells // side, cells % side
        picture = torch.arange(len(likely), device=likely.device)[:, None]
        corner = torch.stack([columns, rows], dim=2)
        names, colours = (told.softmax(2) for told in self.described(scores, rows, columns))
        found = FoundObjects(
            present=best > 0,
            places=(corner + scores.offsets[picture, rows, columns]) / side,
            names=names,
            colours=colours,
        )
        together = alike(found).to(names)
        return found._replace(names=together @ names / together.sum(2, keepdim=True).clamp(min=1))


class _Gathering(nn.Module):
    """How much each cell tells of a thing: by what it shows, and by how near the middle it is.

    An attention whose scores fall with the square of the distance from the middle.

    Args:
        width: ``V``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, _KEY, bias=False)
        self.key = nn.Linear(width, _KEY, bias=False)
        self.fall = nn.Parameter(torch.tensor(-0.5))
        nn.init.zeros_(self.query.weight)  # nearness alone, before anything is learned

    def forward(self, cells: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """[B, G, G, V], and int64 [B, N] twice → shares of the cells, [B, N, G²]."""
        along = torch.arange(cells.shape[1], device=cells.device)
        down, across = ((along - place[..., None]).square() for place in (rows, columns))
        away = (down[..., :, None] + across[..., None, :]).flatten(2)  # [B, N, G²]
        picture = torch.arange(len(cells), device=cells.device)[:, None]
        asked = self.query(cells[picture, rows, columns])  # [B, N, 64]
        likeness = asked @ self.key(cells).flatten(1, 2).mT
        shares: Tensor = (likeness - self.fall.exp() * away).softmax(2)
        return shares


def _in_order(told: Tensor, found: FoundObjects, *, axis: int) -> Tensor:
    """List things by their places along an axis, those that are none last.

    Args:
        told: What is told of each, [B, N, M, D].
        found: The things.
        axis: 0 from left to right, 1 from top to bottom.

    Returns:
        [B, N · M, D].
    """
    order = found.places[..., axis].masked_fill(~found.present, math.inf).argsort(dim=1)
    return told.take_along_dim(order[:, :, None, None], dim=1).flatten(1, 2)


def alike(found: FoundObjects) -> Tensor:
    """Tell which things bear the same name, each itself too, bool [B, N, N].

    What they are taken for counts as a whole, not the likeliest name alone: of three equal things
    that have no name here each may be nearest to another one.
    """
    roots = found.names.sqrt() * found.present[..., None]
    return roots @ roots.mT > _ALIKE
