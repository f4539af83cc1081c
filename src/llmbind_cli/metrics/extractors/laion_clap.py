"""CLAP checkpoints in laion_clap's own layout (HTSAT and RoBERTa, without fusion) → ``ClapModel``.

Names of weights, and what they are for, stand in https://github.com/LAION-AI/CLAP at 46cce9a
(``clap_module/model.py`` and ``htsat.py``); those of the way to sounds in its ``model_configs``.
Widths, depths, heads and window are read from the shapes. What shapes do not tell is what all of
its HTSAT and RoBERTa configurations have: patches that do not overlap, and heads of width 64 in
RoBERTa, whose normalisation adds 1e-5 (the configuration of ``laion/clap-htsat-unfused`` on the Hub
says 1e-12, so that its vectors of words differ in their last digits).

Notation: F frequencies, M mel bands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmbind_cli.errors import IntegrityError
from llmbind_cli.metrics.extractors.published import LocatedWeights, read_tensors
from llmbind_cli.weights.tensors import check_tensors

_RATE_HZ, _LONGEST_S, _HOP = 48_000, 10, 480
_LOW_HZ, _HIGH_HZ = 50, 14_000
_HEAD_WIDTH = 64
_TEXT_EPSILON = 1e-5

_BLOCK = r"audio_branch\.(layers\.\d+\.blocks\.\d+)"
_ENCODER = "audio_model.audio_encoder"
_RENAMED = {
    r"audio_branch\.bn0\.(\w+)": rf"{_ENCODER}.batch_norm.\1",
    r"audio_branch\.((?:patch_embed\.proj|patch_embed\.norm|norm)\.\w+)": rf"{_ENCODER}.\1",
    r"audio_branch\.(layers\.\d+\.downsample\.(?:norm|reduction)\.\w+)": rf"{_ENCODER}.\1",
    rf"{_BLOCK}\.norm1\.(\w+)": rf"{_ENCODER}.\1.layernorm_before.\2",
    rf"{_BLOCK}\.norm2\.(\w+)": rf"{_ENCODER}.\1.layernorm_after.\2",
    rf"{_BLOCK}\.attn\.(relative_position_bias_table)": rf"{_ENCODER}.\1.attention.self.\2",
    rf"{_BLOCK}\.attn\.proj\.(\w+)": rf"{_ENCODER}.\1.attention.output.dense.\2",
    rf"{_BLOCK}\.mlp\.fc1\.(\w+)": rf"{_ENCODER}.\1.intermediate.dense.\2",
    rf"{_BLOCK}\.mlp\.fc2\.(\w+)": rf"{_ENCODER}.\1.output.dense.\2",
    r"text_branch\.((?:embeddings|encoder|pooler)\..+)": r"text_model.\1",
    r"(audio|text)_projection\.0\.(\w+)": r"\1_projection.linear1.\2",
    r"(audio|text)_projection\.2\.(\w+)": r"\1_projection.linear2.\2",
    r"(logit_scale_[at])": r"\1",
}
"""Name in laion_clap → name in transformers, for what is taken over as it is."""

_FUSED = re.compile(rf"{_BLOCK}\.attn\.qkv\.(\w+)")
"""Queries, keys and values of a block of HTSAT, one below the other."""

_FRONT_END = r"audio_branch\.(spectrogram|logmel)_extractor\..+"
_LEFT_OUT = (
    _FRONT_END,  # Fourier and mel matrices: the feature extractor has its own, see `_front_end`
    r"audio_branch\.(tscam_conv|head)\..+",  # the classifier of AudioSet's sounds
    r"(audio|text)_transform\..+",  # further projections, which only its training uses
    rf"{_BLOCK}\.(attn_mask|attn\.relative_position_index)",  # follow from the sizes
    r"text_branch\.embeddings\.(position_ids|token_type_ids)",  # counters
)
"""What no vector depends on, or what transformers makes itself."""

_OF_FUSION = re.compile(r"audio_branch\.(patch_embed\.)?(fusion_model|mel_conv[12]d)\..+")


def load_laion_clap(weights: LocatedWeights, *, device: torch.device) -> tuple[Any, Any]:
    """Load a checkpoint such as ``630k-audioset-best.pt`` for inference, in float32.

    Args:
        weights: A folder with one weight file, converted from a pickled one, without configuration.
        device: Where it runs.

    Returns:
        transformers' ``ClapModel``, and the ``ClapFeatureExtractor`` that hears as laion_clap does,
        but that its caller cuts long sounds.

    Raises:
        IntegrityError: It is no such checkpoint, or one with fusion; weights are missing, unknown,
            of another shape or not finite; or it was trained on another way to sounds.
    """
    from transformers import ClapModel

    path, tensors = read_tensors(weights)
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    if not any(key.startswith("audio_branch.") for key in tensors):
        raise IntegrityError(
            f"{weights.source}: lacks config.json, and is no checkpoint of laion_clap either; "
            f"{weights.name} needs one, or a folder in the layout of transformers' ClapModel"
        )
    if any(_OF_FUSION.fullmatch(key) for key in tensors):
        raise fusion_refused(weights.source)
    state = _renamed(path, tensors)
    sizes = _Sizes(path, tensors)
    front_end = _front_end(sizes)
    with torch.random.fork_rng(devices=[]):  # every weight that is drawn here is replaced below
        network = ClapModel(_configuration(sizes))
    expected = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if value.is_floating_point()
    }
    check_tensors(path, state, expected)
    network.load_state_dict(state, strict=False)  # all but counters and indices, as just checked
    return network.to(device).eval(), front_end


def fusion_refused(source: str) -> IntegrityError:
    """Word the refusal of a CLAP with fusion."""
    return IntegrityError(
        f"{source}: is a CLAP with fusion, which hears random parts of a sound, so "
        "no score of it can be taken again; give one without, such as clap-htsat-unfused"
    )


def _renamed(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights transformers' names; what is neither known nor known to be idle is an error."""
    state: dict[str, Tensor] = {}
    unknown = []
    for key, value in tensors.items():
        if any(re.fullmatch(pattern, key) for pattern in _LEFT_OUT):
            continue
        if (fused := _FUSED.fullmatch(key)) is not None:
            block, part = fused.groups()
            for name, rows in zip(("query", "key", "value"), value.chunk(3), strict=False):
                state[f"{_ENCODER}.{block}.attention.self.{name}.{part}"] = rows
            continue
        for pattern, name in _RENAMED.items():
            if (match := re.fullmatch(pattern, key)) is not None:
                state[match.expand(name)] = value
                break
        else:
            unknown.append(f"{key} is unexpected")
    if unknown:
        raise IntegrityError(f"{path}: {'; '.join(sorted(unknown)[:10])}")
    return state


class _Sizes:
    """Reads numbers of the architecture off the shapes of a checkpoint."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path, self.tensors = path, tensors

    def tensor(self, key: str, dimensions: int) -> Tensor:
        """Return a weight that must be there, with so many dimensions."""
        if key not in self.tensors:
            raise IntegrityError(f"{self.path}: {key} is missing")
        value = self.tensors[key]
        if value.dim() != dimensions or not value.numel():
            raise IntegrityError(f"{self.path}: {key} has shape {tuple(value.shape)}")
        return value

    def size(self, key: str, dimension: int = 0, *, of: int = 2) -> int:
        """Return one dimension of a weight."""
        return self.tensor(key, of).shape[dimension]

    def count(self, prefix: str) -> int:
        """Return how many parts there are, numbered from 0 after a prefix."""
        pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\..+")
        found = [int(match[1]) for key in self.tensors if (match := pattern.fullmatch(key))]
        return max(found, default=-1) + 1


def _configuration(sizes: _Sizes) -> Any:
    from transformers import ClapConfig

    return ClapConfig(
        audio_config=_audio_configuration(sizes),
        text_config=_text_configuration(sizes),
        projection_dim=sizes.size("audio_projection.0.weight"),
    )


def _audio_configuration(sizes: _Sizes) -> dict[str, Any]:
    """The numbers of HTSAT (arXiv 2202.00874)."""
    branch = "audio_branch"
    width, channels, patch, _ = sizes.tensor(f"{branch}.patch_embed.proj.weight", 4).shape
    if channels != 1:
        raise fusion_refused(str(sizes.path))  # four parts of a sound as channels
    stages = range(sizes.count(f"{branch}.layers"))
    first = f"{branch}.layers.0.blocks"
    table = f"{first}.0.attn.relative_position_bias_table"
    window = (math.isqrt(sizes.size(table)) + 1) // 2
    # Every second block shifts its windows; its mask has a row for each window of the whole.
    windows_a_side = math.isqrt(sizes.size(f"{first}.1.attn_mask", of=3))
    return {
        "spec_size": windows_a_side * window * patch,
        "num_mel_bins": sizes.size(f"{branch}.bn0.weight", of=1),
        "patch_size": patch,
        "patch_stride": [patch, patch],
        "window_size": window,
        "patch_embeds_hidden_size": width,
        "hidden_size": width * 2 ** (len(stages) - 1),
        "num_hidden_layers": len(stages),
        "depths": [sizes.count(f"{branch}.layers.{stage}.blocks") for stage in stages],
        "num_attention_heads": [
            sizes.size(f"{branch}.layers.{stage}.blocks.0.attn.relative_position_bias_table", 1)
            for stage in stages
        ],
        "mlp_ratio": sizes.size(f"{first}.0.mlp.fc1.weight") / width,
    }


def _text_configuration(sizes: _Sizes) -> dict[str, Any]:
    embeddings, layer = "text_branch.embeddings", "text_branch.encoder.layer"
    words = f"{embeddings}.word_embeddings.weight"
    width = sizes.size(words, 1)
    if width % _HEAD_WIDTH:
        raise IntegrityError(f"{sizes.path}: {words} has width {width}, no multiple of 64")
    return {
        "vocab_size": sizes.size(words),
        "hidden_size": width,
        "intermediate_size": sizes.size(f"{layer}.0.intermediate.dense.weight"),
        "num_hidden_layers": sizes.count(layer),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": sizes.size(f"{embeddings}.position_embeddings.weight"),
        "type_vocab_size": 1,  # BERT, which has 2, counts positions in another way
        "layer_norm_eps": _TEXT_EPSILON,
    }


def _front_end(sizes: _Sizes) -> Any:
    """Make the feature extractor, and check that the checkpoint was trained on the same mel bands.

    It holds its mel matrix, [F, M], which tells rate and bounds; nothing tells the hop.
    """
    from transformers import ClapFeatureExtractor

    key = "audio_branch.logmel_extractor.melW"
    matrix = sizes.tensor(key, 2).double()
    front_end = ClapFeatureExtractor(
        feature_size=matrix.shape[1],
        sampling_rate=_RATE_HZ,
        hop_length=_HOP,
        max_length_s=_LONGEST_S,
        fft_window_size=2 * (matrix.shape[0] - 1),
        frequency_min=_LOW_HZ,
        frequency_max=_HIGH_HZ,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    expected = torch.from_numpy(front_end.mel_filters_slaney).double()
    if not torch.allclose(matrix, expected, rtol=0, atol=1e-3 * float(expected.max())):
        raise IntegrityError(
            f"{sizes.path}: {key} is not that of {_LOW_HZ} to {_HIGH_HZ} Hz at {_RATE_HZ} Hz, "
            "which all checkpoints of laion_clap have"
        )
    return front_end
