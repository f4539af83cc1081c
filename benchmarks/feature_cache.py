"""What the frozen-feature cache saves: batches with pictures, made with and without it.

    python benchmarks/feature_cache.py [--networks sam-b|light] [--pictures 8]

Weights are random, which changes no time. One pass over the pictures without a cache, one that
fills it, and one that reads it. What the language model does beside that is left out: the share
that the towers have of a whole training step is for the step itself to say.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from segment import save_networks, small_model

from llmbind_cli.data.pictures import PictureFile
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.training.feature_cache import FeatureCache


def one_pass(model: BoundModel, pictures: list[PictureFile], cache: FeatureCache | None) -> float:
    """Return the seconds that all pictures take."""
    began = time.perf_counter()
    for picture in pictures:

        def tower(picture: PictureFile = picture) -> tuple[torch.Tensor, ...]:
            return tuple(model.sight.tower_features([picture.load()]))

        def maps(picture: PictureFile = picture) -> tuple[torch.Tensor, ...]:
            return tuple(one[0] for one in model.sight.maps([picture.load()]))

        if cache is None:
            tower(), maps()
        else:
            cache.get("tower", picture.sha256(), tower)
            cache.get("grounding", picture.sha256(), maps)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", choices=["sam-b", "light"], default="light")
    parser.add_argument("--pictures", type=int, default=8)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = small_model(save_networks(folder, options.networks))
        pictures = []
        for number in range(options.pictures):
            path = folder / f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(path)
            pictures.append(PictureFile(path, path.name))
        one_pass(model, pictures[:1], None)
        without = one_pass(model, pictures, None)
        cache = FeatureCache(
            folder / "cache",
            budget_bytes=8 << 30,
            identities={"tower": "random", "grounding": "random"},
        )
        filling = one_pass(model, pictures, cache)
        reading = one_pass(model, pictures, cache)
        size = sum(path.stat().st_size for path in (folder / "cache").glob("*/*"))
    print(
        json.dumps(
            {
                "networks": options.networks,
                "pictures": len(pictures),
                "without_s": round(without, 3),
                "filling_s": round(filling, 3),
                "reading_s": round(reading, 3),
                "ratio": round(without / reading, 1),
                "mib_a_picture": round(size / len(pictures) / 2**20, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
