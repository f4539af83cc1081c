from __future__ import annotations

import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipeline_pictures import build_picture_pipeline

from llmbind_cli.errors import ConfigurationError, UnavailableError, UsageError
from llmbind_cli.generators.base import GeneratedArtifact, GeneratorRequest
from llmbind_cli.generators.edit import EditGenerator
from llmbind_cli.generators.image import ImageGenerator
from llmbind_cli.generators.pipeline_folder import quiet_libraries
from llmbind_cli.generators.settings import GeneratorSettings

REQUEST = GeneratorRequest(prompt="a cat", seed=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Save a small pipeline of a class once, and return its folder."""
    made: dict[str, Path] = {}

    def save(class_name: str) -> Path:
        if class_name not in made:
            made[class_name] = tmp_path_factory.mktemp("settings") / class_name
            with quiet_libraries():
                build_picture_pipeline(class_name).save_pretrained(made[class_name])
        return made[class_name]

    return save


def image(folder: Path, **settings: Any) -> ImageGenerator:
    return ImageGenerator.load(folder, name="tiny", settings=GeneratorSettings(**settings))


def payload(generator: ImageGenerator) -> bytes:
    (outcome,) = generator.generate([REQUEST])
    assert isinstance(outcome, GeneratedArtifact), outcome
    return outcome.payload


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"steps": 0}, "--steps must be a whole number of 1 to 1000, got 0"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"guidance": -1}, "--guidance must lie in 0 to 100, got -1"),
        ({"guidance": math.nan}, "guidance"),
        ({"guidance": "7"}, "guidance"),
        ({"width": 64}, "width and height go together"),
        ({"width": 4, "height": 4}, "the width of --size must be a whole number of 8 to 8192 px"),
        ({"fps": 0}, "1 to 120 frames per second"),
        ({"frames": -3}, "frames"),
        ({"seconds": 0}, "seconds"),
        ({"strength": 0}, "strength"),
        ({"strength": 1.5}, "--strength must lie in 0.01 to 1, got 1.5"),
        ({"preset": "fast"}, "--preset must be one of lcm, turbo; got 'fast'"),
        ({"video_format": "avi"}, "mp4, gif"),
        ({"audio_format": "mp3"}, "wav, flac"),
        ({"negative_prompt": " "}, "--negative-prompt"),
        ({"memory_budget_gib": 0}, "--memory-budget must lie in 1e-06 to 1e+06 GiB, got 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError) as caught:
        GeneratorSettings(**settings)
    assert word in str(caught.value)


def test_settings_that_nothing_reads_are_refused() -> None:
    settings = GeneratorSettings(fps=8, steps=3)
    settings.refuse_unused(["image", "video"])
    settings.refuse_unused([])
    with pytest.raises(UsageError, match="--fps is for video; this run makes audio and image"):
        settings.refuse_unused(["image", "audio"])


def test_what_shapes_a_result() -> None:
    settings = GeneratorSettings(steps=3, fps=9, cpu_offload=True, memory_budget_gib=2)
    assert settings.shape("image") == '{"steps": 3}'
    assert settings.shape("video") == '{"fps": 9, "steps": 3}'
    assert GeneratorSettings().shape("image") == "{}"


def test_settings_win_over_sampling_file(folders: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(folders("StableDiffusionPipeline"), tmp_path / "own")
    (folder / "sampling.json").write_text('{"num_inference_steps": 2, "guidance_scale": 3.0}')
    own = payload(image(folder))
    assert own != payload(image(folder, steps=3))
    assert own != payload(image(folder, guidance=6.0))
    assert own == payload(image(folder, steps=2, guidance=3.0))


def test_the_plain_pipeline_with_the_same_arguments_gives_the_same(folders: Any) -> None:
    folder = folders("StableDiffusionPipeline")
    generator = image(folder, steps=3, guidance=4.0, width=48, height=24, negative_prompt="a dog")
    with quiet_libraries():
        from diffusers import StableDiffusionPipeline

        plain = StableDiffusionPipeline.from_pretrained(folder)
        plain.set_progress_bar_config(disable=True)
        expected = plain(
            "a cat",
            num_inference_steps=3,
            guidance_scale=4.0,
            width=48,
            height=24,
            negative_prompt="a dog",
            generator=torch.Generator().manual_seed(3),
        ).images[0]
    with Image.open(io.BytesIO(payload(generator))) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.parametrize(
    ("class_name", "settings", "word"),
    [
        (
            "LatentConsistencyModelPipeline",
            {"negative_prompt": "a dog"},
            "--negative-prompt: calls",
        ),
        ("FluxPipeline", {"negative_prompt": "a dog"}, "only with classifier-free guidance"),
        (
            "StableDiffusionPipeline",
            {"negative_prompt": "a dog", "guidance": 1},
            "--guidance above",
        ),
        (
            "StableDiffusionPipeline",
            {"negative_prompt": "a " * 15},
            "is 17 tokens long .* reads 16",
        ),
        (
            "StableDiffusionPipeline",
            {"width": 33, "height": 32},
            "width of --size must be a multiple of 2",
        ),
        ("StableDiffusion3Pipeline", {"preset": "lcm"}, "--preset lcm: .*FlowMatch"),
        ("FluxPipeline", {"preset": "turbo"}, "--preset turbo"),
    ],
)
def test_settings_that_a_pipeline_cannot_take(
    folders: Any, class_name: str, settings: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        image(folders(class_name), **settings)


@pytest.mark.parametrize(
    ("class_name", "settings", "word"),
    [
        ("StableDiffusionInstructPix2PixPipeline", {"strength": 0.5}, "take no strength"),
        ("StableDiffusionImg2ImgPipeline", {"strength": 0.1, "steps": 5}, "leaves none"),
    ],
)
def test_strengths_that_a_pipeline_cannot_take(
    folders: Any, class_name: str, settings: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        EditGenerator.load(folders(class_name), name="tiny", settings=GeneratorSettings(**settings))


def test_sampling_file_that_a_pipeline_cannot_take(tmp_path: Path) -> None:
    class Narrow:
        """Takes no guidance."""

        def __call__(self, *, prompt: list[str], generator: Any, output_type: str) -> None:
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match="take no guidance_scale"):
        ImageGenerator(
            pipeline=Narrow(),
            folder=tmp_path,
            name="narrow",
            batch_size=1,
            sampling={"guidance_scale": 3.0},
        )


@pytest.mark.parametrize(
    ("preset", "scheduler", "steps", "guidance"),
    [("lcm", "LCMScheduler", 4, 1.0), ("turbo", "EulerAncestralDiscreteScheduler", 1, 0.0)],
)
def test_presets_set_all_three_and_say_so(
    folders: Any,
    capsys: pytest.CaptureFixture[str],
    preset: str,
    scheduler: str,
    steps: int,
    guidance: float,
) -> None:
    folder = folders("StableDiffusionPipeline")
    generator = image(folder, preset=preset, width=32, height=32)
    assert type(generator.pipeline.scheduler).__name__ == scheduler
    said = capsys.readouterr().err
    assert f"preset {preset}: {scheduler}, {steps} steps, guidance {guidance:g}" in said
    fewest = payload(generator)
    assert generator.pipeline.num_timesteps == steps
    assert generator.pipeline.guidance_scale == guidance
    assert fewest != payload(image(folder, steps=steps, guidance=guidance, width=32, height=32))
    assert payload(image(folder, preset=preset, steps=steps + 1, width=32, height=32)) != fewest


def test_a_preset_keeps_guidance_that_is_an_input_of_the_weights(folders: Any) -> None:
    generator = image(folders("LatentConsistencyModelPipeline"), preset="lcm", width=32, height=32)
    assert generator._keywords["guidance_scale"] == 8.5
    assert len(payload(generator)) > 0


def test_turbo_edits_run_half_of_two_steps(folders: Any) -> None:
    folder = folders("StableDiffusionImg2ImgPipeline")
    settings = GeneratorSettings(preset="turbo")
    generator = EditGenerator.load(folder, name="tiny", settings=settings)
    assert generator._keywords == {
        "num_inference_steps": 2,
        "guidance_scale": 0.0,
        "strength": 0.5,
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cpu_offload_needs_a_gpu(folders: Any) -> None:
    with pytest.raises(UnavailableError, match="--cpu-offload"):
        image(folders("StableDiffusionPipeline"), cpu_offload=True)


def test_sliced_decoding_gives_the_same_pictures(folders: Any) -> None:
    folder = folders("StableDiffusionPipeline")
    sliced = image(folder, vae_slicing=True, steps=2, width=32, height=32)
    assert sliced.pipeline.vae.use_slicing
    assert payload(sliced) == payload(image(folder, steps=2, width=32, height=32))


def test_fingerprint_follows_settings(folders: Any) -> None:
    folder = folders("StableDiffusionPipeline")
    plain = image(folder)
    assert plain.fingerprint == image(folder, vae_slicing=True, memory_budget_gib=1).fingerprint
    assert plain.fingerprint == image(folder, fps=4).fingerprint
    assert plain.fingerprint != image(folder, steps=4).fingerprint
    assert plain.fingerprint != image(folder, preset="lcm").fingerprint
    half = ImageGenerator.load(folder, name="tiny", dtype="bfloat16")
    assert plain.fingerprint != half.fingerprint
    edit = EditGenerator.load(folder, name="tiny")
    assert plain.fingerprint != edit.fingerprint
    assert plain.model_hash == edit.model_hash


def test_prompt_embeddings_are_kept_and_change_nothing(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmbind_cli.generators import pipeline_generator

    folder = folders("StableDiffusionXLPipeline")
    keeping = image(folder, steps=2, width=32, height=32)
    monkeypatch.setattr(pipeline_generator, "remember_prompts", lambda pipeline: None)
    forgetting = image(folder, steps=2, width=32, height=32)
    requests = [
        GeneratorRequest(prompt=prompt, seed=seed)
        for seed, prompt in enumerate(["a cat", "a dog", "a cat", "a cat"])
    ]
    calls: list[int] = []
    keeping.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    kept = [outcome.payload for outcome in keeping.generate(requests)]  # type: ignore[union-attr]
    # Two texts; this class puts zeros for the empty one of guidance.
    assert len(calls) == 2
    assert kept == [o.payload for o in forgetting.generate(requests)]  # type: ignore[union-attr]


def test_the_least_recently_used_prompt_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmbind_cli.generators import prompt_cache

    monkeypatch.setattr(prompt_cache, "CAPACITY", 2)
    asked: list[str] = []

    class Encoder:
        """Encodes a text as its length."""

        def encode_prompt(self, prompt: str, *, embeds: Any = None) -> tuple[Any, None]:
            asked.append(prompt)
            return torch.tensor([float(len(prompt))]), None

    encoder = Encoder()
    prompt_cache.remember_prompts(encoder)
    for prompt in ("a", "bb", "a", "ccc", "a", "bb"):
        embedding, nothing = encoder.encode_prompt(prompt)
        assert (embedding.item(), nothing) == (len(prompt), None)
        embedding.zero_()  # a caller's own copy
    assert asked == ["a", "bb", "ccc", "bb"]
    encoder.encode_prompt("a", embeds=torch.zeros(1))
    encoder.encode_prompt("a", embeds=torch.zeros(1))
    assert asked[-2:] == ["a", "a"]
