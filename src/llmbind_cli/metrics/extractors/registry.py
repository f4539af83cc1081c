"""Extractors by the names of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from llmbind_cli.metrics.extractors.efficientnet_lite import NAME as EFFICIENTNET
from llmbind_cli.metrics.extractors.efficientnet_lite import EfficientNetExtractor
from llmbind_cli.metrics.extractors.extractor import Extractor
from llmbind_cli.metrics.extractors.published import locate


def load_extractor(
    name: str, *, chosen: Mapping[str, str], device: torch.device, offline: bool
) -> Extractor:
    """Load an extractor with its weights, for inference.

    Args:
        name: Of its weights, as in :data:`~llmbind_cli.metrics.extractors.published.PUBLISHED`, or
            ``effnet-lite0``.
        chosen: Name → source, of :func:`~llmbind_cli.metrics.extractors.published.parse_weights`.
        device: Where it runs.
        offline: Never use the network.

    Raises:
        ModelNotFoundError: Its weights are missing; the message says how to get them.
        IntegrityError: They are damaged, pickled without a hash, or do not fit.
    """
    if name == EFFICIENTNET:
        return EfficientNetExtractor(device=device, offline=offline)
    weights = locate(name, chosen, offline=offline)
    extractor: Extractor = _maker(name)(weights, device=device)
    return extractor


def _maker(name: str) -> Any:
    if name == "inception-v3":
        from llmbind_cli.metrics.extractors.inception import InceptionExtractor

        return InceptionExtractor
    if name.startswith("dinov2"):
        from llmbind_cli.metrics.extractors.dinov2 import Dinov2Extractor

        return Dinov2Extractor
    if name.startswith("clip"):
        from llmbind_cli.metrics.extractors.clip import ClipExtractor

        return ClipExtractor
    if name.startswith("clap"):
        from llmbind_cli.metrics.extractors.clap import ClapExtractor

        return ClapExtractor
    if name == "vggish":
        from llmbind_cli.metrics.extractors.vggish import VggishExtractor

        return VggishExtractor
    from llmbind_cli.metrics.extractors.panns import Cnn14Extractor

    rates = {"cnn14-16k": 16_000, "cnn14-32k": 32_000}
    return partial(Cnn14Extractor, sample_rate_hz=rates[name])
