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

    def provenance(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the new bundle tells of this one, and of those that this one began from.

        Trainings that go on from one another mostly repeat a recipe. Of each but the last only
        what differs is told, so that a long chain stays short.

        Args:
            training: Provenance of the new training itself.

        Returns:
            ``name``, ``fingerprint``, ``differs`` with the values that this bundle's training had
            otherwise, each under its JSON pointer (RFC 6901; ``None`` for what it did not have),
            and ``start`` with the same of the bundle before, where there is one.
        """
        own = {key: value for key, value in self.training.items() if key != "start"}
        told: dict[str, Any] = {"name": self.name, "fingerprint": self.fingerprint}
        told["differs"] = differing(own, training)
        if "start" in self.training:
            told["start"] = self.training["start"]
        return told


def differing(earlier: Any, later: Any, pointer: str = "") -> dict[str, Any]:
    """Return the leaves of ``earlier`` that ``later`` has otherwise, under JSON pointers.

    What only ``later`` has is there as ``None``.
    """
    old, new = _entries(earlier), _entries(later)
    if old is None or new is None:
        return {} if earlier == later else {pointer: earlier}
    found: dict[str, Any] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        part = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        if key in old and key in new:
            found |= differing(old[key], new[key], part)
        else:
            found[part] = old.get(key)
    return found


def _entries(value: Any) -> dict[str, Any] | None:
    """Return the entries of an object or a list by their names; ``None`` for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return {str(place): entry for place, entry in enumerate(value)}
    return None


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
