"""Prompt embeddings kept between calls: a text that comes again is not encoded again."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch

CAPACITY = 16
"""Calls kept; with the widest text encoders in use one takes about 8 MB."""


def remember_prompts(pipeline: Any) -> None:
    """Have a pipeline keep the results of its ``encode_prompt``, least recently used ones out.

    The key is every argument of the call, texts and options alike, so a call gets the very numbers
    that encoding would give; each gets a copy of its own. Calls with tensors among their arguments
    are passed on. Pipelines of an older make have ``_encode_prompt`` instead; where there is
    neither, nothing happens.

    Args:
        pipeline: A loaded diffusers pipeline.
    """
    names = ("encode_prompt", "_encode_prompt")
    name = next((name for name in names if callable(getattr(pipeline, name, None))), None)
    if name is None:
        return
    encode = getattr(pipeline, name)
    kept: OrderedDict[Hashable, Any] = OrderedDict()

    @functools.wraps(encode)
    def remembered(*arguments: Any, **keywords: Any) -> Any:
        try:
            key = _key([arguments, sorted(keywords.items())])
        except TypeError:
            return encode(*arguments, **keywords)
        if key not in kept:
            kept[key] = encode(*arguments, **keywords)
            if len(kept) > CAPACITY:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return _copy(kept[key])

    setattr(pipeline, name, remembered)


def _key(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return tuple(_key(part) for part in value)
    if value is None or isinstance(value, str | int | float | torch.device | torch.dtype):
        return (type(value).__name__, value)
    raise TypeError(f"{type(value).__name__} is no part of a key")


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(_copy(part) for part in value)
    return value
