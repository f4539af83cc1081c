"""The image generator that comes with the package, on its shipped weights."""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.image import ImageGenerator
from llmbind_cli.generators.settings import GeneratorSettings

FOLDER = Path(str(resources.files("llmbind_cli") / "bundles" / "embedded" / "generators" / "image"))


@pytest.fixture(scope="module")
def generator():
    return ImageGenerator.load(FOLDER, name="embedded/image")


@pytest.fixture(scope="module")
def draw(generator):
    def picture(prompt, seed=0):
        (made,) = generator.generate([GeneratorRequest(prompt=prompt, seed=seed)])
        with Image.open(io.BytesIO(made.payload)) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    return picture


def share(picture, red, green, blue):
    """Share of the pixels that are within 90 levels of a colour in every channel."""
    return (np.abs(picture - (red, green, blue)).max(2) < 90).mean()


def test_it_is_small_and_says_how_it_is_used():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 32e6
    sampling = json.loads((FOLDER / "sampling.json").read_text())
    assert sampling["num_inference_steps"] <= 25
    assert "| a thing by its name: top-5 | 500 |" in (FOLDER / "README.md").read_text()


def test_colours_and_sides_follow_the_words(draw):
    picture = draw("a red apple to the left of a green apple")
    assert picture.shape == (128, 128, 3)
    left, right = picture[:, :64], picture[:, 64:]
    assert share(left, 220, 40, 40) > 0.15 > share(right, 220, 40, 40)
    assert share(right, 90, 170, 60) > 0.15 > share(left, 90, 170, 60)


def test_a_seed_is_a_picture(draw):
    assert np.array_equal(draw("a penguin", 1), draw("a penguin", 1))
    pictures = [draw("a penguin", seed) for seed in range(4)]
    apart = [np.abs(a - b).mean() for n, a in enumerate(pictures) for b in pictures[:n]]
    assert max(apart) > 5


def test_a_batch_draws_what_single_calls_draw(generator, draw):
    prompts = ["a blue car", "two strawberries", "a cat"]
    made = generator.generate([GeneratorRequest(prompt=p, seed=7) for p in prompts])
    for artifact, prompt in zip(made, prompts, strict=True):
        with Image.open(io.BytesIO(artifact.payload)) as image:
            batched = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(batched - draw(prompt, 7)).max() <= 2


def test_a_larger_size_enlarges(draw):
    settings = GeneratorSettings(width=256, height=256)
    large = ImageGenerator.load(FOLDER, name="embedded/image", settings=settings)
    (made,) = large.generate([GeneratorRequest(prompt="a cat", seed=0)])
    with Image.open(io.BytesIO(made.payload)) as image:
        assert image.size == (256, 256)
        halved = np.asarray(image.convert("RGB").resize((128, 128), Image.Resampling.BOX))
    assert np.abs(halved.astype(int) - draw("a cat")).mean() < 4
