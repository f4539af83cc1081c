"""A KV cache for replies, which grows and is seen in whole blocks.

transformers' own cache is as wide as what was read, and grows by copying all of it at each step.
This one grows by some blocks when it is full, and attention sees it up to the next multiple of
:data:`~llmbind_cli.model.prompt_reading.LANES`; what lies beyond the last id is masked, as a gap
is. So a row's sums over its keys do not depend on how many ids are read at a time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from llmbind_cli.model.prompt_reading import LANES

_GROWTH = 2 * LANES


class ReplyLayer(DynamicLayer):
    """Keys and values of one layer.

    Args:
        keys: Those of the prompts, [B, H, W, C].
        values: Likewise.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._length = keys.shape[2]
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the next columns, [B, H, T, C]; return all up to the end of their block."""
        end = self._length + key_states.shape[2]
        if end > self.keys.shape[2]:
            columns = (0, 0, 0, _whole_blocks(end + _GROWTH) - self.keys.shape[2])
            self.keys = functional.pad(self.keys, columns)
            self.values = functional.pad(self.values, columns)
        self.keys[:, :, self._length : end] = key_states
        self.values[:, :, self._length : end] = value_states
        self._length = end
        seen = _whole_blocks(end)
        return self.keys[:, :, :seen], self.values[:, :, :seen]

    def get_seq_length(self) -> int:
        """Return the columns that are written."""
        return self._length

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Return the columns that the next update gives, and where they begin.

        Args:
            query_length: Ids about to be read; some versions of transformers give their places.
        """
        count = query_length if isinstance(query_length, int) else query_length.shape[0]
        return _whole_blocks(self._length + count), 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget as many of the last columns as the number is below 0."""
        self._length += tokens_to_remove

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the rows."""
        self.keys, self.values = self.keys[indices], self.values[indices]


def reply_cache(cache: Any) -> Any:
    """Return a cache of :class:`ReplyLayer` that goes on from one whose layers are dynamic ones."""
    following = DynamicCache()
    following.layers = [ReplyLayer(layer.keys, layer.values) for layer in cache.layers]
    return following


def _whole_blocks(columns: int) -> int:
    return -(-columns // LANES) * LANES
