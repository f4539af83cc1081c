"""Encode once, prompt many: what a model has seen is kept by the picture's content.

As in Segment Anything's predictor (arXiv 2304.02643, section 3), the networks that cost much run
once for each picture; questions and prompts about it reuse what came out.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.list_pointer import ListedThings

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT = 32
"""Pictures whose embeddings and maps are kept; the maps of Segment Anything take 4 MB each."""

_AT_ONCE = 8
_Seen = TypeVar("_Seen")


def picture_digest(picture: Image) -> str:
    """Return a hash over the size and the pixels of a picture of mode ``RGB``."""
    digest = hashlib.blake2b(repr(picture.size).encode(), digest_size=16)
    digest.update(picture.tobytes())
    return digest.hexdigest()


class MaskInputs(NamedTuple):
    """What the mask decoder reads of one picture.

    Attributes:
        maps: See :meth:`Sight.maps`.
        things: See :meth:`Sight.things`.
    """

    maps: tuple[Tensor, ...]
    things: ListedThings | None


class PictureMemory:
    """The pictures that one model has seen lately.

    Args:
        sight: What it sees with.
        kept: Most pictures kept, ≥ 1.
    """

    def __init__(self, sight: Sight, *, kept: int = KEPT) -> None:
        if kept < 1:
            raise ValueError(f"kept must be ≥ 1, got {kept}")
        self._sight = sight
        self._kept = kept
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()
        self._maps: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()
        self._things: OrderedDict[str, ListedThings] = OrderedDict()

    @torch.no_grad()
    def embeddings(self, pictures: Sequence[Image]) -> list[Tensor]:
        """Return the positions that pictures take in the LLM.

        Args:
            pictures: Any number, mode ``RGB``.

        Returns:
            One float32 [K, D] for each; the same object for the same picture.
        """
        keys = [picture_digest(picture) for picture in pictures]
        known = {key: self._embeddings[key] for key in keys if key in self._embeddings}
        new = {key: p for key, p in zip(keys, pictures, strict=True) if key not in known}
        waiting = list(new)
        for start in range(0, len(waiting), _AT_ONCE):
            chosen = waiting[start : start + _AT_ONCE]
            features, maps = self._sight.look([new[key] for key in chosen])
            if maps is not None:
                for row, key in enumerate(chosen):
                    own = tuple(scale[row : row + 1].clone() for scale in maps)
                    _keep(self._maps, key, own, self._kept)
            projected, things = self._sight.read(features)
            known |= dict(zip(chosen, projected.unbind(), strict=True))
            if things is not None:
                for row, key in enumerate(chosen):
                    listed = ListedThings(*(one[row : row + 1] for one in things))
                    _keep(self._things, key, listed, self._kept)
        for key, embedded in known.items():
            _keep(self._embeddings, key, embedded, self._kept)
        return [known[key] for key in keys]

    @torch.no_grad()
    def mask_inputs(self, picture: Image) -> MaskInputs:
        """Return what the mask decoder reads of a picture."""
        key = picture_digest(picture)
        maps, things = self._maps.get(key), self._things.get(key)
        if maps is None:
            maps = self._sight.maps([picture])
        _keep(self._maps, key, maps, self._kept)
        if things is None and self._sight.points:
            things = self._sight.things(self._sight.tower_features([picture]))
        if things is not None:
            _keep(self._things, key, things, self._kept)
        return MaskInputs(maps, things)


def _keep(kept: OrderedDict[str, _Seen], key: str, value: _Seen, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
