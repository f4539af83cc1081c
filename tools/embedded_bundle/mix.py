"""Draw what a bundle's training learned back towards the bundle that it began from.

python tools/embedded_bundle/mix.py BUNDLE EARLIER SHARE OUT

Adapter and task-token rows become a mean of both, weight by weight (Wortsman et al., "Robust
fine-tuning of zero-shot models", 2021, arXiv:2109.01903): what the training forgot comes back
sooner than what it learned goes. All else stays BUNDLE's.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from llmbind_cli.model.bundle_folder import fingerprint
from llmbind_cli.model.checkpoint import CARD_NAME
from llmbind_cli.model.config import CONFIG_NAME, HEADS_NAME, BundleConfig
from llmbind_cli.training.model_card import training_card

ADAPTER = "adapter/adapter_model.safetensors"
TOKEN_ROWS = "token_rows."


def mix(bundle: Path, earlier: Path, share: float, out: Path) -> None:
    """Write the mean of two bundles of one shape.

    Args:
        bundle: The later one.
        earlier: What it is drawn back to.
        share: Of the earlier one's weights, between 0 and 1.
        out: Where the new bundle goes; must not be there.

    Raises:
        ValueError: A share that is none, or two bundles with other adapters or task tokens.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share lies between 0 and 1, not {share}")
    adapter = mean(load_file(bundle / ADAPTER), load_file(earlier / ADAPTER), share)
    heads, before = load_file(bundle / HEADS_NAME), load_file(earlier / HEADS_NAME)
    rows, rows_before = (
        {name: tensor for name, tensor in of.items() if name.startswith(TOKEN_ROWS)}
        for of in (heads, before)
    )
    heads |= mean(rows, rows_before, share)
    config, digest = BundleConfig.read(bundle), fingerprint(earlier)
    name = f"{BundleConfig.read(earlier).name}@{digest[:12]}"
    told = {"name": name, "fingerprint": digest, "share": share}
    config = dataclasses.replace(config, training={**config.training, "mixed_with": told})
    card = training_card(config)
    shutil.copytree(bundle, out)
    save_file(adapter, out / ADAPTER, metadata={"format": "pt"})
    save_file(heads, out / HEADS_NAME, metadata={"format": "pt"})
    (out / CONFIG_NAME).write_text(config.to_json(), encoding="utf-8")
    (out / CARD_NAME).write_text(card, encoding="utf-8")


def mean(
    later: Mapping[str, Tensor], earlier: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return ``later`` drawn towards ``earlier`` by ``share``, in the dtypes of ``later``."""
    shapes = [{name: tensor.shape for name, tensor in of.items()} for of in (later, earlier)]
    if shapes[0] != shapes[1]:
        raise ValueError("the two bundles have other adapters or task tokens")
    return {
        name: tensor.float().lerp(earlier[name].float(), share).to(tensor.dtype)
        for name, tensor in later.items()
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("earlier", type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    mix(arguments.bundle, arguments.earlier, arguments.share, arguments.out)


if __name__ == "__main__":
    main()
