"""Load the sight of a bundle: its frozen networks, and the heads that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llmbind_cli.model.config import SightConfig
from llmbind_cli.model.vision.grounding import GroundingEncoder, light_decoder
from llmbind_cli.model.vision.networks import NetworkLoader
from llmbind_cli.model.vision.sam_mask_decoder import SamMaskDecoder, take_sam_decoder
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.efficientnet_lite import EfficientNetLite0, LastBlocks
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder

_SAM_PREFIXES = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.")
_LLAVA_PROJECTOR = ("multi_modal_projector.", "model.multi_modal_projector.")


def load_sight(
    config: SightConfig,
    *,
    bundle: Path | None,
    hidden_size: int,
    tasks: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    offline: bool = False,
    seed: int | None = None,
    embedding_rms: float = 1.0,
) -> Sight:
    """Load the frozen networks of a bundle, and make the heads that belong to them.

    Args:
        config: What the bundle says of its sight.
        bundle: The bundle's folder, where there is one.
        hidden_size: ``D``.
        tasks: Tasks of the bundle's token table.
        device: Where everything goes.
        dtype: Of the frozen transformers; heads are float32.
        offline: Never use the network.
        seed: Of the heads' initial values, for a bundle that is to be trained: the mask decoder
            then starts as that of the grounding encoder's own file, the projector as that of a
            LLaVA, and tuned blocks as those of the network. ``None`` leaves the heads as they
            come: their weights are about to be loaded, and EfficientNet-lite0 is loaded when the
            first picture comes.
        embedding_rms: Root mean square of the LLM's embedding matrix, for a new projector.

    Raises:
        ConfigurationError: A family or setting does not fit.
        ModelNotFoundError: Weights are neither there nor to be fetched.
        IntegrityError: Weights are damaged, missing or others.
    """
    loader = NetworkLoader(
        bundle=bundle, device=device, dtype=dtype, offline=offline, deferred=seed is None
    )
    tower = loader.tower(config.vision_tower)
    grounding = None
    if config.grounding_encoder is not None:
        grounding = loader.grounding(config.grounding_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        sight = Sight(
            config,
            tower=tower,
            grounding=grounding,
            hidden_size=hidden_size,
            tasks=tasks,
            mask_decoder=_mask_decoder(config, grounding, loader, hidden_size),
        )
        if seed is not None:
            sight.projector.match_scale(embedding_rms)
            _take_published(sight, loader)
    return sight.to(device)


def _mask_decoder(
    config: SightConfig,
    grounding: GroundingEncoder | None,
    loader: NetworkLoader,
    hidden_size: int,
) -> SamMaskDecoder | LightMaskDecoder | None:
    entry = config.grounding_encoder
    if entry is None or grounding is None:
        return None
    if entry.family == "sam":
        return SamMaskDecoder(loader.sam_config(entry))
    return light_decoder(config, grounding, hidden_size)


@torch.no_grad()
def _take_published(sight: Sight, loader: NetworkLoader) -> None:
    """Start from what the networks' own files hold beside them."""
    entry = sight.config.grounding_encoder
    stage = getattr(sight.projector, "stage", None)
    for holder, reader in ((stage, sight.tower), (sight.mask_decoder, sight.grounding)):
        blocks, network = getattr(holder, "last", None), getattr(reader, "network", None)
        if isinstance(blocks, LastBlocks) and isinstance(network, EfficientNetLite0):
            blocks.take(network)
    if entry is not None and isinstance(sight.mask_decoder, SamMaskDecoder):
        take_sam_decoder(sight.mask_decoder, loader.tensors(entry, *_SAM_PREFIXES), entry.source)
    found = loader.tensors(sight.config.vision_tower, *_LLAVA_PROJECTOR)
    published = {name.rpartition("multi_modal_projector.")[2]: t for name, t in found.items()}
    wanted = dict(sight.projector.named_parameters())
    if published and {n: t.shape for n, t in published.items()} == {
        n: p.shape for n, p in wanted.items()
    }:
        for name, parameter in wanted.items():
            parameter.copy_(published[name])
