"""Every picture pipeline class that docs/generators.md names, end to end on random weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from saved_pipelines import SavedPipelines
from tiny_pipeline_pictures import build_picture_pipeline

from llmbind_cli.errors import InputDataError, UnavailableError, UsageError
from llmbind_cli.generators.base import GeneratedArtifact, GenerationOutcome, GeneratorRequest
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.generators.settings import GeneratorSettings

DRAWING = [
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "LatentConsistencyModelPipeline",
]
EDITING = [
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusion3Img2ImgPipeline",
    "FluxImg2ImgPipeline",
    "FluxKontextPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedPipelines:
    """Gives the folder of a small pipeline of a class, saved once."""
    return SavedPipelines(tmp_path_factory.mktemp("classes"), build_picture_pipeline)


def load(folder: Path, modality: str, **settings: Any) -> PipelineGenerator:
    wished = GeneratorSettings(**{"steps": 4, "width": 32, "height": 32} | settings)
    generators = GeneratorRegistry(overrides={modality: str(folder)}, device="cpu", settings=wished)
    loaded = generators.load(modality)
    assert isinstance(loaded, PipelineGenerator)
    return loaded


def request(seed: int = 1, *, size: tuple[int, int] | None = None) -> GeneratorRequest:
    picture = None
    if size is not None:
        noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
    return GeneratorRequest(prompt="a cat", seed=seed, image=picture)


def opened(outcome: GenerationOutcome) -> Image.Image:
    assert isinstance(outcome, GeneratedArtifact), outcome
    assert (outcome.media_type, outcome.suffix) == ("image/png", ".png")
    picture = Image.open(io.BytesIO(outcome.payload))
    picture.load()
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return picture


@pytest.mark.parametrize("class_name", DRAWING)
def test_drawing(saved: Any, class_name: str) -> None:
    generator = load(saved(class_name), "image", width=40, height=24)
    assert type(generator.pipeline).__name__ == class_name
    first, again, other = generator.generate([request(1), request(1), request(2)])
    picture = opened(first)
    assert picture.size == (40, 24)
    assert len(np.unique(np.asarray(picture))) > 20
    assert isinstance(first, GeneratedArtifact)
    assert isinstance(again, GeneratedArtifact)
    assert first.payload == again.payload
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(opened(other))).max() > 20


@pytest.mark.parametrize("class_name", EDITING)
def test_editing_keeps_the_frame_of_the_picture(saved: Any, class_name: str) -> None:
    generator = load(saved(class_name), "edit")
    assert type(generator.pipeline).__name__ == class_name
    one, same, narrow = generator.generate(
        [request(1, size=(50, 37)), request(1, size=(50, 37)), request(1, size=(24, 48))]
    )
    assert opened(one).size == (50, 37)
    assert opened(narrow).size == (24, 48)
    assert isinstance(one, GeneratedArtifact)
    assert isinstance(same, GeneratedArtifact)
    assert one.payload == same.payload
    assert len(np.unique(np.asarray(opened(one)))) > 20


@pytest.mark.parametrize(
    ("class_name", "editor"),
    [
        ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
        ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
        ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
        ("FluxPipeline", "FluxImg2ImgPipeline"),
        ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
    ],
)
def test_a_drawing_folder_edits_through_its_sibling(
    saved: Any, class_name: str, editor: str
) -> None:
    generator = load(saved(class_name), "edit", strength=0.5)
    assert type(generator.pipeline).__name__ == editor
    picture = request(1, size=(32, 32))
    assert picture.image is not None
    (weak,) = generator.generate([picture])
    (strong,) = load(saved(class_name), "edit", strength=1.0).generate([picture])
    assert not np.array_equal(np.asarray(opened(weak)), np.asarray(opened(strong)))


def test_an_edit_follows_its_picture_and_its_words(saved: Any) -> None:
    generator = load(saved("StableDiffusionInstructPix2PixPipeline"), "edit")
    first = request(1, size=(32, 32))
    assert first.image is not None
    mirrored = GeneratorRequest(prompt="a cat", seed=1, image=first.image.rotate(180))
    worded = GeneratorRequest(prompt="a dog", seed=1, image=first.image)
    results = [np.asarray(opened(o)) for o in generator.generate([first, mirrored, worded])]
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_edits_of_several_sizes_share_calls_where_they_can(saved: Any) -> None:
    generator = load(saved("StableDiffusionImg2ImgPipeline"), "edit")
    mixed = [request(1, size=(32, 32)), request(2, size=(48, 24)), request(3, size=(32, 32))]
    alone = [np.asarray(opened(o)) for o in generator.generate(mixed)]
    generator.batch_size = 4
    # A larger batch sums in another order: a rounded pixel moves by at most 1.
    for single, outcome in zip(alone, generator.generate(mixed), strict=True):
        assert np.abs(single.astype(int) - np.asarray(opened(outcome))).max() <= 1


def test_an_edit_without_a_picture_fails_alone(saved: Any) -> None:
    generator = load(saved("StableDiffusionImg2ImgPipeline"), "edit")
    none, some = generator.generate([request(1), request(1, size=(32, 32))])
    assert isinstance(none, UsageError)
    assert "--image" in str(none)
    assert opened(some).size == (32, 32)


@pytest.mark.parametrize("size", [(2000, 1), (10, 20_000)])
def test_a_picture_too_narrow_is_refused(saved: Any, size: tuple[int, int]) -> None:
    generator = load(saved("StableDiffusionImg2ImgPipeline"), "edit")
    (outcome,) = generator.generate([request(1, size=size)])
    assert isinstance(outcome, InputDataError)
    assert f"{size[0]} × {size[1]}" in str(outcome)


def test_one_pixel_can_be_edited(saved: Any) -> None:
    generator = load(saved("StableDiffusionImg2ImgPipeline"), "edit")
    (outcome,) = generator.generate([request(1, size=(1, 1))])
    assert opened(outcome).size == (1, 1)


@pytest.mark.parametrize(
    ("class_name", "modality", "word"),
    [
        ("StableDiffusionInstructPix2PixPipeline", "image", "for edit"),
        ("StableDiffusionImg2ImgPipeline", "video", "for edit"),
        ("FluxPipeline", "audio", "for image"),
    ],
)
def test_wrong_kind(saved: Any, class_name: str, modality: str, word: str) -> None:
    with pytest.raises(UnavailableError, match=f"{class_name} is no .* {modality} .* {word}"):
        load(saved(class_name), modality)


def test_edits_and_pictures_of_one_folder_share_networks(saved: Any) -> None:
    folder = str(saved("StableDiffusionPipeline"))
    generators = GeneratorRegistry(overrides={"image": folder, "edit": folder}, device="cpu")
    drawing, editing = generators.load("image"), generators.load("edit")
    assert isinstance(drawing, PipelineGenerator)
    assert isinstance(editing, PipelineGenerator)
    assert drawing.pipeline.unet is editing.pipeline.unet
    assert drawing.pipeline.scheduler is not editing.pipeline.scheduler
