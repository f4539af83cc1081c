"""The list pointer: which of the things that a projector lists a prompt means, and where that is.

A projector that lists things knows what each is called and where it stands; a mask decoder that
sees the picture alone must find that out again. So the prompt of a mask also asks the list: an
attention of the prompt to the listed things whose shares become heat around their places, added to
the image that the decoder attends to. Such a map is what Segment Anything calls a dense prompt
(arXiv 2304.02643, section 3); pointing at one of several inputs by attention is Vinyals et al.,
"Pointer Networks" (arXiv 1506.03134). What is asked for need not be in the list by that name: a
thing whose own name is unsure is what a word that fits no other thing means.

Notation: ``G`` pictures, ``N`` things listed, ``E`` width of what is told of each, ``M`` masks,
``Q`` width of the query, ``h × w`` places of the map that is attended to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_HIDDEN = 256
_SPREAD = 1.0
"""Spread of the heat around a place, in cells."""

_FREQUENCIES = (1, 2, 4)
_BESIDE = 2 + 4 * len(_FREQUENCIES) + 2 + 4
"""Numbers told of a thing beside its name and its colour."""

SURENESS = slice(-6, -4)
"""Where among what is told of a thing its likeliest name's share is, and the entropy of all."""

_NEVER = -1e4


class ListedThings(NamedTuple):
    """What a list tells of the things in pictures.

    Attributes:
        told: What each is called, which colour it has, where it stands, and how sure that is,
            [G, N, E].
        places: Its middle over the sides of the square that was seen, x and y, [G, N, 2].
        present: Whether there is an n-th one, bool [G, N].
    """

    told: Tensor
    places: Tensor
    present: Tensor


def told_width(hidden_size: int) -> int:
    """Return ``E`` for the width of an LLM whose words names and colours are."""
    return 2 * hidden_size + _BESIDE


def tell(names: Tensor, colours: Tensor, shares: Tensor, places: Tensor, present: Tensor) -> Tensor:
    """Put together what is told of things.

    Args:
        names: What they are called, in the LLM's words, [G, N, D].
        colours: Which colours they have, in its words, [G, N, D].
        shares: Of all names, [G, N, T].
        places: As in :class:`ListedThings`.
        present: As there.

    Returns:
        [G, N, E].
    """
    width = names.shape[-1:]
    angles = torch.pi * torch.cat([places * frequency for frequency in _FREQUENCIES], dim=2)
    unsure = torch.special.entr(shares).sum(2, keepdim=True)
    there = present[..., None]
    first = places == places.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    last = places == places.masked_fill(~there, -torch.inf).amax(1, keepdim=True)
    parts = [
        functional.layer_norm(names, width),
        functional.layer_norm(colours, width),
        places,
        angles.sin(),
        angles.cos(),
        shares.amax(2, keepdim=True),
        unsure,
        first.to(places),
        last.to(places),
    ]
    return torch.cat(parts, dim=2)


class ListPointer(nn.Module):
    """Queries and listed things → which of the things are meant.

    Args:
        query_width: ``Q``, ≥ 1.
        told_width: ``E``, ≥ 1.
        unnamed: Logits that speak for a thing besides, for each nat of the entropy of its names,
            up to one. What was learned from known names alone asks too little for that.

    Raises:
        ValueError: A width is < 1, or ``unnamed`` < 0.
    """

    def __init__(self, *, query_width: int, told_width: int, unnamed: float = 0.0) -> None:
        super().__init__()
        if query_width < 1 or told_width < 1:
            raise ValueError(
                f"query_width and told_width must be ≥ 1, got {query_width} and {told_width}"
            )
        if unnamed < 0:
            raise ValueError(f"unnamed must be ≥ 0, got {unnamed}")
        self.told_width, self.unnamed = told_width, unnamed
        self.direct = nn.Linear(told_width, query_width, bias=False)
        self.hidden = nn.Linear(told_width, _HIDDEN)
        self.mixed = nn.Linear(_HIDDEN, query_width)
        self.usual = nn.Linear(told_width, 1)

    def scores(self, queries: Tensor, things: ListedThings, image_of: Tensor) -> Tensor:
        """Score each thing for each query.

        Args:
            queries: [M, Q].
            things: Of the pictures.
            image_of: Which picture each query is about, int64 [M].

        Returns:
            Logits, [M, N]; far below all others where there is no n-th thing.
        """
        keys = self.direct(things.told) + self.mixed(functional.gelu(self.hidden(things.told)))
        entropy = things.told[..., SURENESS.stop - 1]
        usual = self.usual(things.told).squeeze(2) + self.unnamed * entropy.clamp(max=1)  # [G, N]
        fitting = torch.einsum("mq,mnq->mn", queries, keys[image_of]) * queries.shape[1] ** -0.5
        scores: Tensor = (fitting + usual[image_of]).masked_fill(~things.present[image_of], _NEVER)
        return scores

    def shares(self, queries: Tensor, things: ListedThings, image_of: Tensor) -> Tensor:
        """Tell how much of each thing each query means, in [0, 1], [M, N].

        They add up to 1 or less: a share may go to none of them. The rest as for :meth:`scores`.
        """
        scores = self.scores(queries, things, image_of)
        nothing = scores.new_zeros(len(scores), 1)
        return torch.cat([scores, nothing], dim=1).softmax(1)[:, :-1]


def heat(shares: Tensor, things: ListedThings, image_of: Tensor, grid: tuple[int, int]) -> Tensor:
    """Show where the things are that are meant.

    Args:
        shares: Of the things, [M, N].
        things: Of the pictures.
        image_of: Which picture each row of shares is about, int64 [M].
        grid: ``h`` and ``w``.

    Returns:
        In [0, 1], the shares around the things' places, [M, h, w].
    """
    down, across = (
        (torch.arange(size, device=shares.device) + 0.5 - things.places[..., axis, None] * size)
        .div(_SPREAD)
        .square()
        for size, axis in ((grid[0], 1), (grid[1], 0))
    )  # [G, N, h] and [G, N, w]
    spots = (-(down[..., None] + across[..., None, :]) / 2).exp()  # [G, N, h, w]
    shown: Tensor = torch.einsum("mn,mnhw->mhw", shares, spots[image_of].to(shares))
    return shown
