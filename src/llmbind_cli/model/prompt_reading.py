"""Reading prompts into a KV cache: what all of them begin with once, the rest by width.

Each row's ids stand from the left, then comes a gap that no query sees, then what is emitted:

    prompt of row 0   | gap | reply
    a longer one of row 1 | | reply

The reply begins at a multiple of :data:`LANES` and every gap is at least one wide. So a sum over
the keys of a row adds the same numbers in the same lanes whatever stands in the other rows. Where
kernels do not choose their order by the shape of a batch, as in bfloat16 on CPUs with AMX, the
row's states are then the same to the last bit in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import IMAGE_ID

LANES = 16
"""Numbers that the widest vector unit of an x86 CPU adds at a time in float32."""

_IDS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class ReadPrompts:
    """Prompts in memory, ready for the first id of their replies.

    Attributes:
        cache: Keys and values of ``B`` rows and ``W`` columns.
        hidden_states: The last hidden state of each prompt, ``[B, D]``.
        attention_mask: 1 where a row has an id, 0 in its gap; int64 ``[B, W]``.
        positions: Position of the first id of each reply, int64 ``[B]``.
    """

    cache: Any
    hidden_states: Tensor
    attention_mask: Tensor
    positions: Tensor


def reads_together(model: BoundModel, num_positions: int) -> bool:
    """Tell whether prompts of several lengths may share a cache.

    Recurrent layers would read a gap as if it were text, and a sliding window counts it.

    Args:
        model: The bound model.
        num_positions: Length of the longest row, its gap and reply included.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    config: Any = model.language_model.config
    return all(
        type(layer) is DynamicLayer
        or (type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= num_positions)
        for layer in DynamicCache(config=config).layers
    )


def width_with_gap(length: int) -> int:
    """Return the columns that a prompt of ``length`` ids takes: the next multiple of LANES."""
    return (length // LANES + 1) * LANES


def number_images(
    prompts: Sequence[Sequence[int]], images: Sequence[Sequence[Tensor]]
) -> tuple[list[list[int]], Tensor]:
    """Give every position of a picture an id of its own, the same one for the same picture.

    So prompts on one picture begin alike, and prompts on two do not.

    Args:
        prompts: Ids with ``IMAGE_ID`` wherever a picture's embedding belongs.
        images: The pictures of each prompt in order, each ``[K, D]``.

    Returns:
        The prompts with ids ``-1 - n`` for row ``n`` of a table, and the table ``[R, D]``.

    Raises:
        ValueError: A prompt has more or fewer places than its pictures have embeddings.
    """
    starts: dict[int, int] = {}
    tables: list[Tensor] = []
    size = 0
    for picture in (picture for pictures in images for picture in pictures):
        if id(picture) not in starts:
            starts[id(picture)] = size
            tables.append(picture)
            size += len(picture)
    numbered = []
    for prompt, pictures in zip(prompts, images, strict=True):
        rows = [starts[id(picture)] + n for picture in pictures for n in range(len(picture))]
        places = sum(index == IMAGE_ID for index in prompt)
        if places != len(rows):
            raise ValueError(f"a prompt has {places} places for {len(rows)} image embeddings")
        following = iter(rows)
        numbered.append([-1 - next(following) if i == IMAGE_ID else i for i in prompt])
    return numbered, torch.cat(tables)


def _inputs(model: BoundModel, ids: Tensor, image_table: Tensor | None) -> dict[str, Tensor]:
    if image_table is None:
        return {"input_ids": ids}
    return {"inputs_embeds": model.embed(ids, image_table)}


def read_prompt(
    model: BoundModel, prompt: Sequence[int], image_table: Tensor | None = None
) -> ReadPrompts:
    """Read one prompt without a gap, for a model that :func:`reads_together` is false of."""
    from transformers import DynamicCache

    ids = torch.tensor([prompt], device=model.device)  # [1, T]
    cache: Any = DynamicCache(config=model.language_model.config)
    mask = torch.ones_like(ids)
    output = model.decoder(
        **_inputs(model, ids, image_table),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    )
    return ReadPrompts(
        cache=cache,
        hidden_states=output.last_hidden_state[:, -1],
        attention_mask=mask,
        positions=torch.tensor([len(prompt)], device=model.device),
    )


def read_prompts(
    model: BoundModel, prompts: Sequence[Sequence[int]], image_table: Tensor | None = None
) -> ReadPrompts:
    """Read ``B`` prompts, at least one, none of them empty.

    What all begin with, such as the chat template's system turn, is read once. Prompts that take
    the same width are read together, so little time goes into gaps.

    Args:
        model: The bound model.
        prompts: Token ids of each; those of pictures as :func:`number_images` gives them.
        image_table: Embeddings of the pictures, ``[R, D]``; ``None`` where there are none.
    """
    widths = [width_with_gap(len(prompt)) for prompt in prompts]
    opening = _Opening(model, prompts, image_table)
    rows_of_width: dict[int, list[int]] = {}
    for row, width in enumerate(widths):
        rows_of_width.setdefault(width, []).append(row)
    merged: list[tuple[Tensor, Tensor]] = []
    last: list[Tensor] = [torch.empty(0)] * len(prompts)
    for width, rows in rows_of_width.items():
        step = max(1, _IDS_AT_ONCE // width)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            cache, states = opening.read_rest([prompts[row] for row in chosen], width)
            for row, state in zip(chosen, states, strict=True):
                last[row] = state
            _place(merged, cache, rows=chosen, shape=(len(prompts), max(widths)))
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    return ReadPrompts(
        cache=_cache_of(merged),
        hidden_states=torch.stack(last),
        attention_mask=_mask(lengths, max(widths)),
        positions=lengths,
    )


class _Opening:
    """What several prompts begin with, read once."""

    def __init__(
        self, model: BoundModel, prompts: Sequence[Sequence[int]], image_table: Tensor | None
    ) -> None:
        self._model = model
        self._image_table = image_table
        self._length = _shared_length(prompts) if len(prompts) > 1 else 0
        self._layers: list[tuple[Tensor, Tensor]] = []
        if self._length:
            # In a row of its own with a gap, as the prompts are, so that the same kernel runs.
            shared = prompts[0][: self._length]
            cache, _ = self._read([shared], width_with_gap(self._length), past=_cache_of([]))
            end = self._length
            self._layers = [(k[:, :, :end], v[:, :, :end]) for k, v in _layers_of(cache)]

    def read_rest(self, prompts: Sequence[Sequence[int]], width: int) -> tuple[Any, list[Tensor]]:
        """Read what follows the opening; return the cache of whole prompts and the last states."""
        rows = len(prompts)
        past = _cache_of(
            [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self._layers]
        )
        return self._read(prompts, width, past=past)

    def _read(
        self, prompts: Sequence[Sequence[int]], width: int, *, past: Any
    ) -> tuple[Any, list[Tensor]]:
        device, known = self._model.device, past.get_seq_length()
        lengths = [len(prompt) for prompt in prompts]
        padded = [[*prompt[known:], *[0] * (width - len(prompt))] for prompt in prompts]
        ids = torch.tensor(padded, device=device)  # [b, W − known]
        output = self._model.decoder(
            **_inputs(self._model, ids, self._image_table),
            attention_mask=_mask(torch.tensor(lengths, device=device), width),
            position_ids=torch.arange(known, width, device=device)[None],
            past_key_values=past,
            use_cache=True,
        )
        states = output.last_hidden_state
        ends = [states[row, length - known - 1] for row, length in enumerate(lengths)]
        return past, ends


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many ids all prompts begin with, the last of each left out: its state is asked."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    for position in range(shortest):
        if len({prompt[position] for prompt in prompts}) > 1:
            return position
    return shortest


def _mask(lengths: Tensor, width: int) -> Tensor:
    columns = torch.arange(width, device=lengths.device)
    return (columns < lengths[:, None]).long()  # [B, W]


def _layers_of(cache: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _cache_of(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    from transformers import DynamicCache

    return DynamicCache(ddp_cache_data=layers)


def _place(
    merged: list[tuple[Tensor, Tensor]], cache: Any, *, rows: Sequence[int], shape: tuple[int, int]
) -> None:
    """Copy the rows of a cache into their places in a wider one, which the first call makes."""
    layers = _layers_of(cache)
    if not merged:
        count, width = shape
        merged += [
            (
                keys.new_zeros(count, keys.shape[1], width, keys.shape[3]),
                values.new_zeros(count, values.shape[1], width, values.shape[3]),
            )
            for keys, values in layers
        ]
    index = torch.tensor(rows, device=merged[0][0].device)
    for pair, targets in zip(layers, merged, strict=True):
        for part, target in zip(pair, targets, strict=True):
            target[index, :, : part.shape[2]] = part
