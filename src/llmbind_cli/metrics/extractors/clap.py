"""CLAP (arXiv 2211.06687): features of sounds, and vectors in which sounds and texts compare.

transformers' ``ClapModel`` on checkpoints without fusion, in its own layout or in laion_clap's. Its
feature extractor cuts a random part out of a long sound; here the first ten seconds count, so that
a score can be taken again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmbind_cli.errors import IntegrityError
from llmbind_cli.metrics.extractors.extractor import Array, Extracted, Sound
from llmbind_cli.metrics.extractors.laion_clap import fusion_refused, load_laion_clap
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.metrics.extractors.text_embedder import TextEmbedder, unit_vectors
from llmbind_cli.metrics.extractors.transformer_folder import load_network
from llmbind_cli.metrics.resampling import resample
from llmbind_cli.weights.sources import PathSource, parse_source

TOKENIZER_FOLDER = "roberta-base"
"""Beside a checkpoint of laion_clap: the tokenizer that such checkpoints do not hold."""

_LIMIT = 77
"""Tokens that CLAP was trained on; laion_clap cuts longer texts off."""


class ClapExtractor(TextEmbedder):
    """CLAP as an extractor, and as a judge of sounds beside texts.

    Args:
        weights: A folder in the layout of transformers' ``ClapModel``, with its tokenizer and
            ``preprocessor_config.json``; or one that holds the weights of a checkpoint of
            laion_clap, without ``config.json``.
        device: Where it runs.

    Attributes:
        sample_rate_hz: Rate that the network hears.
        limit: Tokens that a text may have.

    Raises:
        IntegrityError: It does not fit, or is one with fusion, which draws random parts of a sound.
    """

    title = "CLAP"

    def __init__(self, weights: LocatedWeights, *, device: torch.device) -> None:
        has_configuration = (weights.folder / "config.json").is_file()
        load = _load_transformers if has_configuration else load_laion_clap
        network, self.front_end = load(weights, device=device)
        self.sample_rate_hz = int(self.front_end.sampling_rate)
        positions = int(network.config.text_config.max_position_embeddings)
        limit = min(_LIMIT, positions - 2)
        words = None if has_configuration else _tokenizer_beside(weights)
        super().__init__(network, weights, device=device, limit=limit, tokenizer_folder=words)
        self.preprocessing = (
            f"mean of the channels; resampled to {self.sample_rate_hz} Hz (Hann-windowed sinc, "
            f"width 6, roll-off 0.99); the first {self.front_end.max_length_s} s, shorter ones "
            "repeated as often as they fit and zeros after; log-mel (Slaney) of transformers' "
            "ClapFeatureExtractor; projected, of length 1"
        )

    def extract(self, prepared: Sequence[Array]) -> Extracted:
        """Turn sounds into features: the unit vectors of :meth:`embed_sounds`, [B, 512]."""
        return Extracted(self.embed_sounds(prepared))

    def embed_sounds(self, prepared: Sequence[Array]) -> Array:
        """Turn sounds, prepared, into unit vectors, float64, [B, P]."""
        inputs = self.front_end(
            list(prepared),
            sampling_rate=self.sample_rate_hz,
            return_tensors="pt",
        )
        with torch.inference_mode():
            pooled = self.network.audio_model(
                input_features=inputs["input_features"].float().to(self.device),
                is_longer=inputs["is_longer"].to(self.device),
            ).pooler_output
            return unit_vectors(self.network.audio_projection(pooled))

    def prepare(self, medium: Sound) -> Array:
        """Return what the front end hears of a sound: float32, at most ten seconds, [n]."""
        mono = medium.samples.mean(axis=0)
        heard = resample(mono, medium.sample_rate_hz, self.sample_rate_hz)
        return heard[: self.front_end.nb_max_samples]


def _load_transformers(weights: LocatedWeights, *, device: torch.device) -> tuple[Any, Any]:
    """Load a ``ClapModel`` and its ``ClapFeatureExtractor`` from a folder of transformers."""
    from transformers import ClapFeatureExtractor, ClapModel

    network = load_network(ClapModel, weights, device=device)
    if network.config.audio_config.enable_fusion:
        raise fusion_refused(weights.source)
    try:
        front_end = ClapFeatureExtractor.from_pretrained(
            weights.folder, local_files_only=True, truncation="rand_trunc", padding="repeatpad"
        )
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{weights.source}: lacks preprocessor_config.json") from error
    return network, front_end


def _tokenizer_beside(weights: LocatedWeights) -> Path | None:
    """Give the folder of RoBERTa's tokenizer: ``roberta-base`` beside a checkpoint that is a file.

    A folder that holds the checkpoint may hold the tokenizer, too; then it is ``None``.
    """
    source = parse_source(weights.source)
    if isinstance(source, PathSource) and not source.path.is_dir():
        return source.path.parent / TOKENIZER_FOLDER
    return None
