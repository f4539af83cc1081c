"""Where a training starts from: an earlier bundle, whose training it then continues."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.model.bundle_folder import fingerprint, locate_bundle
from llmbind_cli.model.config import ADAPTER_DIR, BundleConfig
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, read_adapter_config

_LAYERS, _MODULES = "layers_to_transform", "target_modules"
_MAY_DIFFER = {"lora_dropout", "every", "base_model_sha256"}


@dataclass(frozen=True, kw_only=True)
class Start:
    """The bundle that a training continues.

    Attributes:
        bundle: Its folder.
        name: Its name and the start of its fingerprint.
        fingerprint: sha256 over its configuration and weights.
        training: Its own provenance.
        new_layers: Decoder layers that the recipe adapts and the bundle does not.
        new_modules: Linears of each layer that the recipe adapts and the bundle does not, by the
            last parts of their names.
    """

    bundle: Path
    name: str
    fingerprint: str
    training: dict[str, Any]
    new_layers: frozenset[int]
    new_modules: frozenset[str]

    def provenance(self) -> dict[str, Any]:
        """Return what the new bundle tells of this one."""
        return {"name": self.name, "fingerprint": self.fingerprint, "training": self.training}


def find_start(
    source: str,
    *,
    base: str | None,
    token_ids: Mapping[str, int],
    adapter: LoraMoeConfig,
    offline: bool = False,
) -> Start:
    """Find the bundle to start from, and check that it is one of the recipe's model.

    Args:
        source: ``embedded``, a bundle directory, or any source that resolves to one.
        base: Hash of the base's weights; ``None`` where it is not known.
        token_ids: Spelling → id of the task tokens.
        adapter: The adapter of the recipe's model, its layers listed.
        offline: Never use the network.

    Raises:
        ModelNotFoundError: There is no bundle.
        ConfigurationError: Base, task tokens or adapter differ from those of the bundle. The
            recipe may adapt more layers, more linears of each, and have more task tokens, not
            fewer.
        IntegrityError: The bundle is damaged.
    """
    bundle = locate_bundle(source, offline=offline)
    config = BundleConfig.read(bundle)
    earlier = config.language_model.sha256
    # The recipe may teach more tasks than the bundle has; those of the bundle keep their ids.
    kept = {spelling: token_ids.get(spelling) for spelling in config.token_ids}
    now: dict[str, Any] = {"task tokens": kept} | _fields(adapter)
    before = {"task tokens": config.token_ids} | _fields(read_adapter_config(bundle / ADAPTER_DIR))
    if base is not None and earlier is not None:
        now["base"], before["base"] = base, earlier
    new: dict[str, frozenset[Any]] = {}
    for key in (_LAYERS, _MODULES):
        recipe_has, bundle_has = frozenset(now[key] or ()), frozenset(before[key] or ())
        new[key] = recipe_has - bundle_has
        if bundle_has <= recipe_has:
            before[key] = now[key]
    faults = [
        f"{key}: {now[key]!r}, there {before[key]!r}" for key in now if now[key] != before[key]
    ]
    if faults:
        raise ConfigurationError(
            f"model.start: the recipe's model is not that of {bundle}: {'; '.join(faults)}"
        )
    digest = fingerprint(bundle)
    return Start(
        bundle=bundle,
        name=f"{config.name}@{digest[:12]}",
        fingerprint=digest,
        training=config.training,
        new_layers=new[_LAYERS],
        new_modules=new[_MODULES],
    )


def _fields(adapter: LoraMoeConfig) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(adapter).items() if k not in _MAY_DIFFER}
