"""How much faster the second prompt on a picture is than the first, with networks of real size.

    python benchmarks/segment.py [--networks sam-b|light] [--prompts 5]

Weights are random, which changes no time. The language model is left out: what is measured is
what a picture costs, with CLIP ViT-L/14 and SAM ViT-B at 1024 px, or with EfficientNet-lite0 for
both at 256 px.
A prompt is: the picture's embeddings for the language model, and the mask of one state in the
photo's own frame. The first one sees the picture for the first time, the others remember it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.config import BaseModel, BundleConfig, SightConfig, VisionNetwork
from llmbind_cli.model.vision.loading import load_sight
from llmbind_cli.tokens import TokenTable

WIDTH = 576
PHOTO = (640, 480)


def save_networks(folder: Path, networks: str) -> SightConfig:
    """Save random networks of the published sizes, and say how a bundle names them."""
    if networks == "light":
        from safetensors.torch import save_file

        from llmbind_cli.nn.efficientnet_lite import EfficientNetLite0

        (folder / "net").mkdir()
        save_file(EfficientNetLite0().state_dict(), folder / "net" / "model.safetensors")
        entry = {
            "family": "efficientnet-lite0",
            "source": str(folder / "net"),
            "sha256": None,
            "side_px": 256,
            "fit": "corner",
        }
        return SightConfig(
            vision_tower=VisionNetwork(**entry, strides=(16, 32)),
            grounding_encoder=VisionNetwork(**entry),
        )
    from transformers import CLIPVisionConfig, CLIPVisionModel, SamConfig, SamModel

    clip = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    CLIPVisionModel(clip).save_pretrained(folder / "clip")
    SamModel(SamConfig()).save_pretrained(folder / "sam")
    return SightConfig(
        vision_tower=VisionNetwork(
            family="clip", source=str(folder / "clip"), sha256=None, side_px=224, fit="pad"
        ),
        grounding_encoder=VisionNetwork(
            family="sam", source=str(folder / "sam"), sha256=None, side_px=1024, fit="corner"
        ),
    )


def small_model(sight: SightConfig) -> BoundModel:
    """Return a model whose language part does nothing: sight alone is timed."""
    loaded = load_sight(
        sight,
        bundle=None,
        hidden_size=WIDTH,
        tasks=["segment"],
        device=torch.device("cpu"),
        dtype=torch.float32,
        seed=0,
    )
    return BoundModel(
        config=BundleConfig(
            name="bench",
            language_model=BaseModel(source="", sha256=None, vocab_size=0, hidden_size=WIDTH),
            tokens=(),
            token_ids={},
            sight=sight,
        ),
        tokenizer=None,
        language_model=torch.nn.Linear(1, 1),
        token_table=TokenTable(tokens=(), ids={}),
        fingerprint="",
        sight=loaded.eval(),
    )


def prompt_once(model: BoundModel, photo: Image.Image, state: torch.Tensor) -> float:
    """Return the seconds that one prompt takes, from the picture to the mask in its frame."""
    began = time.perf_counter()
    with torch.no_grad():
        model.pictures.embeddings([photo])
        maps, things = model.pictures.mask_inputs(photo)
        logits = model.sight.mask_logits(maps, state, torch.zeros(1, dtype=torch.long), things)
        model.sight.masks(photo, logits)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", choices=["sam-b", "light"], default="light")
    parser.add_argument("--prompts", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(save_networks(Path(folder), options.networks))
        states = torch.randn(options.prompts + 1, 1, WIDTH)
        warm = Image.fromarray(rng.integers(0, 256, (*PHOTO[::-1], 3), np.uint8))
        prompt_once(model, warm, states[0])  # compiles and allocates
        photo = Image.fromarray(rng.integers(0, 256, (*PHOTO[::-1], 3), np.uint8))
        first, *others = [prompt_once(model, photo, state) for state in states]
    later = statistics.median(others)
    print(
        json.dumps(
            {
                "networks": options.networks,
                "photo": PHOTO,
                "threads": torch.get_num_threads(),
                "first_s": round(first, 4),
                "later_s": round(later, 4),
                "ratio": round(first / later, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
