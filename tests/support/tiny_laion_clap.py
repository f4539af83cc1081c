"""A small random CLAP, and its weights in the layout of laion_clap, written out by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tiny_extractors import fourier_weights, slaney_mel
from torch import Tensor

WINDOW, MEL_BANDS, RATE_HZ = 1024, 64, 48_000
_TO_LAION = (
    ("audio_model.audio_encoder.", "audio_branch."),
    ("batch_norm.", "bn0."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("attention.self.relative", "attn.relative"),
    ("attention.output.dense.", "attn.proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


def clap(seed: int = 0) -> Any:
    """A ``ClapModel`` of few weights with the sizes that all of laion_clap's have in common."""
    from tiny_pipeline_parts import roberta_tokenizer
    from transformers import ClapConfig, ClapModel

    text = {
        "vocab_size": len(roberta_tokenizer()),
        "hidden_size": 128,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "layer_norm_eps": 1e-5,
    }
    audio = {
        "spec_size": 256,
        "num_mel_bins": MEL_BANDS,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "window_size": 8,
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [2, 4],
        "num_attention_heads": [2, 4],
        "mlp_ratio": 2.0,
        "num_hidden_layers": 2,
    }
    torch.manual_seed(seed)
    network = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12))
    enliven(network)
    return network.eval()


def enliven(network: Any) -> None:
    """Make weights so large that layers differ visibly, and statistics those of decibels."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name and "extractor" not in name:
                parameter.mul_(4)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(-30 + 5 * torch.randn(buffer.shape))
            if name.endswith("running_var"):
                buffer.copy_(100 + 100 * torch.rand(buffer.shape))


def laion_state(network: Any) -> dict[str, Tensor]:
    """The weights of a ``ClapModel`` as laion_clap names them, with all that stands beside them."""
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        if key.startswith("text_model."):
            state["text_branch." + key.removeprefix("text_model.")] = value
        elif "_projection." in key:
            side, _, part = key.partition("_projection.linear")
            state[f"{side}_projection.{ {'1': 0, '2': 2}[part[0]] }{part[1:]}"] = value
        elif ".attention.self.query." in key:
            names = [key.replace("query", name) for name in ("query", "key", "value")]
            fused = _renamed(key).replace("attention.self.query", "attn.qkv")
            state[fused] = torch.cat([network.state_dict()[name] for name in names])
        elif ".attention.self.key." not in key and ".attention.self.value." not in key:
            state[_renamed(key)] = value
    state.pop("text_branch.embeddings.token_type_ids", None)
    real, imaginary = fourier_weights(WINDOW)
    mel = slaney_mel(RATE_HZ, WINDOW, MEL_BANDS, 50, 14_000)
    state["audio_branch.spectrogram_extractor.stft.conv_real.weight"] = real
    state["audio_branch.spectrogram_extractor.stft.conv_imag.weight"] = imaginary
    state["audio_branch.logmel_extractor.melW"] = torch.from_numpy(mel).float()
    state["audio_branch.tscam_conv.weight"] = torch.zeros(527, 16, 2, 3)
    state["audio_branch.head.weight"] = torch.zeros(527, 527)
    state["text_transform.sequential.0.weight"] = torch.zeros(12, 12)
    state["audio_transform.sequential.3.bias"] = torch.zeros(12)
    for stage, windows in ((0, 64), (1, 16)):
        for block in (1, 3)[: stage + 1]:
            mask = torch.zeros(windows, 64, 64)
            state[f"audio_branch.layers.{stage}.blocks.{block}.attn_mask"] = mask
    return state


def _renamed(key: str) -> str:
    for name, other in _TO_LAION:
        key = key.replace(name, other)
    return key


def save_checkpoint(state: Mapping[str, Tensor], path: Path, *, trained: bool = True) -> str:
    """Save weights as laion_clap's training does, or bare, and return what ``--weights`` takes."""
    content: Any = dict(state)
    if trained:
        state = {f"module.{key}": value for key, value in state.items()}
        content = {"epoch": 1, "name": "tiny", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(content, path)
    return f"{path},sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"
