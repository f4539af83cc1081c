"""Bundles on disk: save, and the checks before anything of them is used.

Layout (see :mod:`llmbind_cli.model.config`): ``llmbind.json``, tokenizer files, ``adapter/``,
``heads.safetensors`` and ``README.md``.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor

from llmbind_cli.errors import IntegrityError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.config import ADAPTER_DIR, CONFIG_NAME, HEADS_NAME, BundleConfig, SightConfig
from llmbind_cli.model.lora_moe_adapter import (
    adapter_state_dict,
    decoder_layer_of,
    save_adapter,
)
from llmbind_cli.model.token_rows import INPUT_ROWS, OUTPUT_ROWS, attached_rows
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.weights.atomic import replace_directory
from llmbind_cli.weights.hashes import check_safetensors
from llmbind_cli.weights.tensors import check_tensors

CARD_NAME = "README.md"


def save_bundle(
    model: BoundModel, directory: Path, *, card: str, dtype: torch.dtype | None = None
) -> None:
    """Write a bundle, new folder first, then swapped in for the old one.

    Args:
        model: The model; its frozen base is not written, only named.
        directory: Target folder; an older bundle there stays loadable until the swap.
        card: Text of the model card.
        dtype: Floating type of the saved adapter and rows; ``None`` keeps each as it is.
    """
    from safetensors.torch import save

    staging = directory.with_name(f".{directory.name}.new")
    _clear(staging)
    staging.mkdir(parents=True)
    model.tokenizer.save_pretrained(staging)
    save_adapter(model.language_model, staging / ADAPTER_DIR, dtype=dtype)
    heads = {
        name: head.detach().to("cpu", dtype or head.dtype).contiguous()
        for name, head in trained_heads(model).items()
    }
    (staging / HEADS_NAME).write_bytes(save(heads, metadata={"format": "pt"}))
    (staging / CONFIG_NAME).write_text(model.config.to_json(), encoding="utf-8")
    (staging / CARD_NAME).write_text(card, encoding="utf-8")
    replace_directory(staging, directory)


def _clear(directory: Path) -> None:
    import shutil

    if directory.exists():
        shutil.rmtree(directory)


def trained_heads(model: BoundModel) -> dict[str, torch.nn.Parameter]:
    """Return what ``heads.safetensors`` holds: the token rows, and the heads of sight."""
    heads = attached_rows(model.language_model)
    return heads if model.sight is None else heads | model.sight.heads()


def read_heads(
    bundle: Path,
    *,
    num_tokens: int,
    hidden_size: int,
    tied: bool,
    sight: Sight | None = None,
    ignored: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Read and check the token rows of a bundle, and the heads of its sight.

    Args:
        bundle: The bundle directory.
        num_tokens: ``K``, the spellings in the bundle's token table.
        hidden_size: ``D`` of the base.
        tied: Whether the base ties input and output embeddings.
        sight: What the bundle sees with, for the names and shapes of its heads.
        ignored: Starts of the names of heads that are not wanted.

    Raises:
        IntegrityError: The file is missing, truncated, has other tensors or shapes than the
            token table, the base and the sight call for, or holds NaN or inf (faults 28, 30, 32).
    """
    from safetensors.torch import load_file

    path = bundle / HEADS_NAME
    if not path.is_file():
        raise IntegrityError(f"{path} is missing")
    check_safetensors(path)
    tensors = load_file(path)
    names = {INPUT_ROWS} if tied else {INPUT_ROWS, OUTPUT_ROWS}
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (num_tokens, hidden_size))
    if sight is not None:
        shapes |= {name: tuple(head.shape) for name, head in sight.heads().items()}
    if ignored:
        tensors = {n: tensor for n, tensor in tensors.items() if not n.startswith(ignored)}
        shapes = {n: shape for n, shape in shapes.items() if not n.startswith(ignored)}
    check_tensors(path, tensors, shapes)
    return tensors


def restore_weights(
    model: BoundModel,
    bundle: Path,
    *,
    new_layers: Collection[int] = (),
    new_modules: Collection[str] = (),
) -> None:
    """Copy what a bundle holds into a model of the same shapes, dtypes kept.

    A model with more task tokens than the bundle, or with sight where the bundle has none, or with
    another mask decoder, keeps the initial values of what the bundle says nothing of.

    Args:
        model: The model, changed in place.
        bundle: The bundle directory.
        new_layers: Decoder layers that the model adapts and the bundle does not. Their experts
            stay as they were initialised, where they add nothing to the base (B = 0).
        new_modules: Linears of each layer for which that holds, by the last parts of their names.

    Raises:
        IntegrityError: A file is missing or damaged, or has other tensors than the model.
    """
    from safetensors.torch import load_file

    path = bundle / ADAPTER_DIR / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        raise IntegrityError(f"{path} is missing")
    check_safetensors(path)
    tensors = load_file(path)
    adapter = adapter_state_dict(model.language_model)
    adapter = {
        name: parameter
        for name, parameter in adapter.items()
        if decoder_layer_of(name) not in new_layers and not set(name.split(".")) & set(new_modules)
    }
    check_tensors(path, tensors, {name: tuple(p.shape) for name, p in adapter.items()})
    rows = attached_rows(model.language_model)
    earlier = BundleConfig.read(bundle)
    places = _places(bundle, earlier, model.config)
    saved = read_heads(
        bundle,
        num_tokens=len(places),
        hidden_size=rows[INPUT_ROWS].shape[1],
        tied=OUTPUT_ROWS not in rows,
        sight=model.sight if earlier.sight is not None else None,
        ignored=_other_heads(earlier.sight, model.config.sight),
    )
    with torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(tensors[name])
        for name, parameter in rows.items():
            parameter[places] = saved[name].to(parameter)
        if model.sight is not None and earlier.sight is not None:
            model.sight.load_heads(saved)


def _other_heads(earlier: SightConfig | None, now: SightConfig | None) -> tuple[str, ...]:
    """Return how the names of those heads start that one sight cannot take from another."""
    if earlier is None or now is None:
        return ()
    ignored: tuple[str, ...] = ()
    own = ("vision_tower", "projector_layers", "object_tokens")
    if any(getattr(earlier, name) != getattr(now, name) for name in own):
        ignored += ("projector.",)
    decoders = [(one.grounding_encoder, one.mask_decoder) for one in (earlier, now)]
    if decoders[0] != decoders[1]:
        ignored += ("mask_decoder.", "prompt_projection.")
    return ignored


def _places(bundle: Path, earlier: BundleConfig, now: BundleConfig) -> list[int]:
    """Return which rows of a model the rows of a bundle are.

    Raises:
        IntegrityError: The bundle has a task token that the model has not.
    """
    order = {spelling: number for number, spelling in enumerate(now.token_ids)}
    if unknown := [spelling for spelling in earlier.token_ids if spelling not in order]:
        raise IntegrityError(f"{bundle}: has task tokens that this model lacks: {unknown}")
    return [order[spelling] for spelling in earlier.token_ids]


def check_base(bundle: Path, expected: Any, language_model: Any) -> None:
    """Refuse a base other than the one the bundle was trained on (fault 30).

    Args:
        bundle: The bundle directory, for the message.
        expected: The ``language_model`` part of the bundle's configuration.
        language_model: The loaded base.

    Raises:
        IntegrityError: Vocabulary or width differ.
    """
    matrix = language_model.get_input_embeddings().weight
    found = (matrix.shape[0], language_model.config.hidden_size)
    wanted = (expected.vocab_size, expected.hidden_size)
    if found != wanted:
        raise IntegrityError(
            f"{bundle}: made for a base with vocabulary and width {wanted}, "
            f"{expected.source} has {found}"
        )
