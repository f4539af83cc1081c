"""The frozen networks of sight, each from its own published layout.

``clip`` and ``siglip``: the vision half of a folder in transformers layout, be it a vision model, a
whole CLIP or SigLIP, or a LLaVA (``llava-hf``) whose tower it is. ``sam``: a ``SamModel`` in
transformers layout, ViT-B, L or H. ``efficientnet-lite0``: the weights of the Python package, or
the same ones with folded normalisations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llmbind_cli.errors import ConfigurationError, IntegrityError
from llmbind_cli.model.config import VisionNetwork
from llmbind_cli.model.pretrained import load_pretrained
from llmbind_cli.model.vision.grounding import (
    EfficientNetGrounding,
    GroundingEncoder,
    SamGrounding,
)
from llmbind_cli.model.vision.preprocessing import FITS, Preprocessing
from llmbind_cli.model.vision.towers import EfficientNetTower, VisionTower, ViTTower
from llmbind_cli.nn import efficientnet_lite
from llmbind_cli.nn.efficientnet_lite import Backbone
from llmbind_cli.weights import cache
from llmbind_cli.weights.hashes import check_safetensors

_Network = TypeVar("_Network", bound=nn.Module)

TOWERS = ("clip", "siglip", "efficientnet-lite0")
GROUNDINGS = ("sam", "efficientnet-lite0")

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
_NORMALISATION = {
    "clip": (_CLIP_MEAN, _CLIP_DEVIATION),
    "siglip": (_HALF, _HALF),
    "sam": (efficientnet_lite.MEAN, efficientnet_lite.DEVIATION),
    "efficientnet-lite0": (efficientnet_lite.MEAN, efficientnet_lite.DEVIATION),
}
"""Mean and deviation of red, green and blue that each family was trained with. Those of Segment
Anything are 123.675, 116.28, 103.53 and 58.395, 57.12, 57.375, which is ImageNet's times 255."""

_WITHIN_LLAVA = {r"^(model\.)?vision_tower\.(vision_model\.)?": ""}


def preprocessing_of(entry: VisionNetwork) -> Preprocessing:
    """Return how pictures are made ready for a network.

    Raises:
        ConfigurationError: The family or the way to fit is unknown.
    """
    if entry.family not in _NORMALISATION or entry.fit not in FITS:
        raise ConfigurationError(
            f"a vision network needs a family of {', '.join(_NORMALISATION)} and a fit of "
            f"{', '.join(FITS)}, got {entry.family!r} and {entry.fit!r}"
        )
    mean, deviation = _NORMALISATION[entry.family]
    return Preprocessing(
        side_px=entry.side_px,
        fit=entry.fit,
        mean=mean,
        deviation=deviation,
        bicubic=entry.family != "sam",
    )


def resolve_part(source: str, bundle: Path | None) -> str:
    """Return the source of a bundle's part; a path with a dot in front starts from the bundle."""
    if bundle is not None and source.startswith(("./", "../")):
        return str((bundle / source).resolve())
    return source


class NetworkLoader:
    """Loads the frozen networks of one bundle; what two entries share is loaded once.

    Args:
        bundle: The bundle's folder, from which relative sources start; ``None`` for none.
        device: Where the networks go.
        dtype: Of transformers' networks; convolutions stay in float32.
        offline: Never use the network.
        deferred: Leave EfficientNet-lite0, of which nothing need be known, until a picture comes:
            who writes words only then neither fetches nor loads it.
    """

    def __init__(
        self,
        *,
        bundle: Path | None,
        device: torch.device,
        dtype: torch.dtype,
        offline: bool,
        deferred: bool = False,
    ) -> None:
        self._bundle = bundle
        self._device = device
        self._dtype = dtype
        self._offline = offline
        self._deferred = deferred
        self._loaded: dict[tuple[str, str], nn.Module] = {}

    def folder(self, entry: VisionNetwork) -> Path:
        """Return the folder of a network's weights, checked against its pin.

        Raises:
            ModelNotFoundError: It is neither there nor to be fetched.
            IntegrityError: The weights are damaged or others.
        """
        source = resolve_part(entry.source, self._bundle)
        return cache.resolve(source, sha256=entry.sha256, offline=self._offline)

    def tower(self, entry: VisionNetwork) -> VisionTower:
        """Load a vision tower.

        Raises:
            ConfigurationError: The family is none of :data:`TOWERS`, or a setting does not fit.
            IntegrityError: The weights do not fit the family.
        """
        network = self._network(entry, TOWERS)
        preprocessing = preprocessing_of(entry)
        with _settings_of(entry):
            if entry.family == "efficientnet-lite0":
                return EfficientNetTower(
                    _backbone(network),
                    preprocessing=preprocessing,
                    strides=entry.strides or (32,),
                    cell_colours=entry.cell_colours,
                    tuned_from=entry.tuned_from,
                )
            return ViTTower(network, preprocessing=preprocessing, layer=entry.layer)

    def grounding(self, entry: VisionNetwork) -> GroundingEncoder:
        """Load a grounding encoder; errors as for :meth:`tower`."""
        if entry.fit != "corner":
            raise ConfigurationError(
                f"a grounding encoder needs the fit corner, by which its masks find back into the "
                f"picture's frame; got {entry.fit!r}"
            )
        network = self._network(entry, GROUNDINGS)
        preprocessing = preprocessing_of(entry)
        with _settings_of(entry):
            if entry.family == "efficientnet-lite0":
                return EfficientNetGrounding(
                    _backbone(network),
                    preprocessing=preprocessing,
                    strides=entry.strides or tuple(efficientnet_lite.CHANNELS),
                    tuned_from=entry.tuned_from,
                )
            return SamGrounding(network, preprocessing=preprocessing)

    def sam_config(self, entry: VisionNetwork) -> Any:
        """Return the ``SamConfig`` of a grounding encoder of family ``sam``."""
        from transformers import SamConfig

        return SamConfig.from_pretrained(self.folder(entry), local_files_only=True)

    def tensors(self, entry: VisionNetwork, *prefixes: str) -> dict[str, Tensor]:
        """Read some tensors of a network's own files.

        Args:
            entry: The network.
            prefixes: Of the names of the tensors wanted.
        """
        from safetensors import safe_open

        found: dict[str, Tensor] = {}
        for path in sorted(self.folder(entry).glob("*.safetensors")):
            check_safetensors(path)
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118
                found |= {name: file.get_tensor(name) for name in names}
        return found

    def _network(self, entry: VisionNetwork, families: tuple[str, ...]) -> nn.Module:
        if entry.family not in families:
            raise ConfigurationError(
                f"the family must be one of {', '.join(families)} here, got {entry.family!r}"
            )
        is_light = entry.family == "efficientnet-lite0"
        if is_light and self._deferred:
            key = (entry.family, f"{entry.source}@{entry.sha256}")
            return self._loaded.setdefault(
                key, DeferredBackbone(lambda: self._ready(load_efficientnet(self.folder(entry))))
            )
        folder = self.folder(entry)
        key = (entry.family, str(folder))
        if key not in self._loaded:
            self._loaded[key] = self._ready(
                load_efficientnet(folder)
                if is_light
                else _load_transformer(folder, entry.family, self._dtype)
            )
        return self._loaded[key]

    def _ready(self, network: _Network) -> _Network:
        return network.to(self._device).eval().requires_grad_(False)


class DeferredBackbone(nn.Module):
    """EfficientNet-lite0, loaded when it is shown the first picture.

    Args:
        load: Loads it; errors are those of :func:`load_efficientnet` and of its source.
    """

    def __init__(self, load: Callable[[], efficientnet_lite.EfficientNetLite0]) -> None:
        super().__init__()
        self._load = load
        self.network: efficientnet_lite.EfficientNetLite0 | None = None

    def feature_maps(self, pixel_values: Tensor, coarsest: int = 32) -> dict[int, Tensor]:
        """Describe every place of pictures; see :class:`EfficientNetLite0`."""
        if self.network is None:
            self.network = self._load()
        return self.network.feature_maps(pixel_values, coarsest)


def _backbone(network: nn.Module) -> Backbone:
    if not isinstance(network, efficientnet_lite.EfficientNetLite0 | DeferredBackbone):
        raise TypeError(f"expected EfficientNetLite0, got {type(network).__name__}")
    return network


@contextlib.contextmanager
def _settings_of(entry: VisionNetwork) -> Iterator[None]:
    """Turn a setting that does not fit a network into an error that names the network."""
    try:
        yield
    except ValueError as error:
        raise ConfigurationError(f"{entry.family} of {entry.source}: {error}") from error


def load_efficientnet(folder: Path) -> efficientnet_lite.EfficientNetLite0:
    """Load EfficientNet-lite0 from a folder with one safetensors file.

    Args:
        folder: Holds the weights of efficientnet-lite-pytorch 0.1.0, or the state of an
            ``EfficientNetLite0``.

    Raises:
        IntegrityError: The file is missing or damaged, or holds other weights.
    """
    from safetensors.torch import load_file

    path = next(iter(sorted(folder.glob("*.safetensors"))), None)
    if path is None:
        raise IntegrityError(f"{folder}: holds no safetensors file of EfficientNet-lite0")
    check_safetensors(path)
    tensors = load_file(path)
    network = efficientnet_lite.EfficientNetLite0()
    try:
        is_folded = "stem.convolution.weight" in tensors
        network.load_state_dict(tensors if is_folded else efficientnet_lite.folded(tensors))
    except (KeyError, RuntimeError) as error:
        raise IntegrityError(f"{path}: not the weights of EfficientNet-lite0: {error}") from error
    return network


def _load_transformer(folder: Path, family: str, dtype: torch.dtype) -> nn.Module:
    """Load the vision half of a folder in transformers layout."""
    import transformers

    vision_class = {
        "clip": transformers.CLIPVisionModel,
        "siglip": transformers.SiglipVisionModel,
        "sam": transformers.SamVisionModel,
    }[family]
    network: nn.Module = load_pretrained(
        vision_class,
        folder,
        what=f"the {family} network",
        part_of=lambda config: _vision_half(config, family, folder),
        dtype=dtype,
    )
    return network


def _vision_half(config: Any, family: str, folder: Path) -> dict[str, Any]:
    """Return the options that take the vision network out of a folder's configuration.

    Raises:
        IntegrityError: It is of another family.
    """
    options: dict[str, Any] = {}
    if config.model_type == "llava":
        options = {"config": config.vision_config, "key_mapping": _WITHIN_LLAVA}
    found = options.get("config", getattr(config, "vision_config", config)).model_type
    if found.split("_")[0] != family:
        raise IntegrityError(f"{folder}: holds a {found}, not a {family} network")
    return options
