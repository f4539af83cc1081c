from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipeline import PICTURE_SIZE_PX, build_pipeline, save_pipeline
from tiny_pipeline_parts import TOKEN_LIMIT

from llmbind_cli.errors import (
    ConfigurationError,
    InputDataError,
    IntegrityError,
    LlmbindError,
    ModelNotFoundError,
    PartialFailure,
    PolicyError,
    TemporaryError,
    UnavailableError,
    UsageError,
)
from llmbind_cli.generators.base import GeneratedArtifact, GeneratorRequest
from llmbind_cli.generators.image import ImageGenerator
from llmbind_cli.generators.pipeline_generator import pipeline_dtype

Altered = Callable[[], Path]


@pytest.fixture(scope="module")
def generator(pipeline_folder: Path) -> ImageGenerator:
    return ImageGenerator.load(pipeline_folder, name="tiny", device="cpu")


def requests_of(seeds: Sequence[int], prompt: str = "a cat") -> list[GeneratorRequest]:
    return [GeneratorRequest(prompt=prompt, seed=seed) for seed in seeds]


def with_batches_of(generator: ImageGenerator, size: int, folder: Path) -> ImageGenerator:
    return ImageGenerator(
        pipeline=generator.pipeline,
        folder=folder,
        name="tiny",
        batch_size=size,
        sampling={"num_inference_steps": 2, "guidance_scale": 2.0},
    )


def artifacts_of(outcomes: Sequence[GeneratedArtifact | LlmbindError]) -> list[GeneratedArtifact]:
    wrong = [outcome for outcome in outcomes if not isinstance(outcome, GeneratedArtifact)]
    assert not wrong
    return [outcome for outcome in outcomes if isinstance(outcome, GeneratedArtifact)]


def pixels_of(artifact: GeneratedArtifact) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(artifact.payload)) as picture:
        return np.asarray(picture).astype(int)


def test_png_has_size_variety_and_metadata(generator: ImageGenerator) -> None:
    (artifact,) = artifacts_of(generator.generate(requests_of([7], "a cát")))
    assert (artifact.media_type, artifact.suffix) == ("image/png", ".png")
    with Image.open(io.BytesIO(artifact.payload)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.size == (PICTURE_SIZE_PX, PICTURE_SIZE_PX)
        text = picture.text  # type: ignore[attr-defined]
    assert text["prompt"] == "a cát"
    assert text["seed"] == "7"
    assert text["model"] == "tiny"
    assert text["model_hash"] == generator.model_hash
    assert text["software"].startswith("llmbind ")
    assert len(np.unique(pixels_of(artifact))) > 20


def test_pixels_equal_the_plain_pipeline(pipeline_folder: Path, generator: ImageGenerator) -> None:
    from diffusers import DiffusionPipeline

    plain = DiffusionPipeline.from_pretrained(pipeline_folder, use_safetensors=True)
    plain.set_progress_bar_config(disable=True)
    noise = torch.Generator("cpu").manual_seed(11)
    expected = plain("a dog", generator=noise, num_inference_steps=2, guidance_scale=2.0).images[0]
    (artifact,) = artifacts_of(generator.generate(requests_of([11], "a dog")))
    assert np.array_equal(pixels_of(artifact), np.asarray(expected))


def test_seed_and_prompt_decide_the_bytes(generator: ImageGenerator) -> None:
    first, second, other = artifacts_of(generator.generate(requests_of([1, 1, 2])))
    (worded,) = artifacts_of(generator.generate(requests_of([1], "a dog")))
    assert first.payload == second.payload
    assert np.abs(pixels_of(first) - pixels_of(other)).max() > 20
    assert not np.array_equal(pixels_of(first), pixels_of(worded))


def test_bytes_do_not_depend_on_neighbours_or_order(generator: ImageGenerator) -> None:
    assert generator.batch_size == 1
    together = artifacts_of(generator.generate(requests_of([3, 4, 5, 6])))
    for seed, artifact in zip((6, 5, 4, 3), reversed(together), strict=True):
        (alone,) = artifacts_of(generator.generate(requests_of([seed])))
        assert alone.payload == artifact.payload


@pytest.mark.parametrize("size", [2, 3, 8])
def test_batches_agree_to_one_level(
    generator: ImageGenerator, pipeline_folder: Path, size: int
) -> None:
    # A larger batch sums in another order: 1e-6 in [0, 1], so a rounded pixel moves by at most 1.
    seeds = range(5)
    batched = with_batches_of(generator, size, pipeline_folder).generate(requests_of(seeds))
    for alone, together in zip(
        artifacts_of(generator.generate(requests_of(seeds))), artifacts_of(batched), strict=True
    ):
        assert np.abs(pixels_of(alone) - pixels_of(together)).max() <= 1


def test_too_long_a_prompt_fails_alone(generator: ImageGenerator) -> None:
    long = " ".join(["a"] * (TOKEN_LIMIT - 1))
    fits = " ".join(["a"] * (TOKEN_LIMIT - 2))
    outcomes = generator.generate(requests_of([1], long) + requests_of([1], fits))
    assert isinstance(outcomes[0], InputDataError)
    assert f"{TOKEN_LIMIT + 1} tokens long and tiny reads {TOKEN_LIMIT}" in str(outcomes[0])
    assert isinstance(outcomes[1], GeneratedArtifact)


def test_safety_checker_withholds(tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "checked", safety_checker=True)
    checked = ImageGenerator.load(folder, name="checked", require_safety_checker=True)
    (outcome,) = checked.generate(requests_of([1]))
    assert isinstance(outcome, PolicyError)
    assert "safety checker" in str(outcome)


def test_absent_safety_checker_follows_the_policy(pipeline_folder: Path) -> None:
    with pytest.raises(PolicyError, match="no safety checker"):
        ImageGenerator.load(pipeline_folder, name="tiny", require_safety_checker=True)


class FakePipeline:
    """Gives prepared pictures, and fails for batches above a size as a full device does."""

    components: dict[str, Any] = {}  # noqa: RUF012
    device = "cuda"

    def __init__(self, *, value: float = 0.5, capacity: int = 100) -> None:
        self.value = value
        self.capacity = capacity
        self.batches: list[int] = []

    def __call__(self, *, prompt: list[str], generator: list[torch.Generator], **_: Any) -> Any:
        self.batches.append(len(prompt))
        draws = [torch.rand(1, generator=g).item() for g in generator]
        if len(prompt) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        images = np.full((len(prompt), 4, 4, 3), self.value)
        images[:, 0, 0, 0] = draws if np.isfinite(self.value) and self.value else self.value
        return type("Output", (), {"images": images})()


def fake(pipeline: FakePipeline, batch_size: int = 8) -> ImageGenerator:
    nowhere = Path("no-such-folder")
    return ImageGenerator(pipeline=pipeline, folder=nowhere, name="fake", batch_size=batch_size)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "not numbers"), (0.0, "all-black")])
def test_broken_pictures_are_failures(value: float, word: str) -> None:
    (outcome,) = fake(FakePipeline(value=value)).generate(requests_of([1]))
    assert isinstance(outcome, PartialFailure)
    assert word in str(outcome)


def test_out_of_memory_halves_the_batch_with_the_same_results() -> None:
    tight = FakePipeline(capacity=2)
    halved = artifacts_of(fake(tight).generate(requests_of(range(7))))
    assert tight.batches == [7, 3, 1, 2, 4, 2, 2]
    whole = artifacts_of(fake(FakePipeline()).generate(requests_of(range(7))))
    assert [a.payload for a in halved] == [a.payload for a in whole]


def test_out_of_memory_with_one_item_fails_it() -> None:
    (outcome,) = fake(FakePipeline(capacity=0)).generate(requests_of([1]))
    assert isinstance(outcome, TemporaryError)


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    class Broken(FakePipeline):
        def __call__(self, **_: Any) -> Any:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fake(Broken()).generate(requests_of([1]))


def test_fingerprint_follows_contents_not_place(
    generator: ImageGenerator, altered: Altered
) -> None:
    folder = altered()
    assert ImageGenerator.load(folder, name="copy").fingerprint == generator.fingerprint
    (folder / "sampling.json").write_text('{"num_inference_steps": 3}')
    assert ImageGenerator.load(folder, name="copy").fingerprint != generator.fingerprint


DRAW = """
import sys
from pathlib import Path
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.image import ImageGenerator
generator = ImageGenerator.load(Path(sys.argv[1]), name="tiny")
generator.generate([GeneratorRequest(prompt="a cat", seed=1)])
"""


def test_libraries_stay_silent(pipeline_folder: Path) -> None:
    # In a process of its own: the libraries tie their handlers to stderr at import.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", DRAW, pipeline_folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_no_pipeline_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model_index\.json"):
        ImageGenerator.load(tmp_path, name="none")


def test_pickled_weights_are_refused(altered: Altered) -> None:
    folder = altered()
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(IntegrityError, match="pickled") as caught:
        ImageGenerator.load(folder, name="pickled")
    assert "diffusion_pytorch_model.bin" in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_truncated_weights_are_refused(altered: Altered) -> None:
    folder = altered()
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match=r"truncated: expected \d+ bytes, has \d+"):
        ImageGenerator.load(folder, name="cut")


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "mismatched", "NaN"])
def test_weights_that_are_not_those_saved(altered: Altered, component: str, fault: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = altered()
    (path,) = (folder / component).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[-1]
    if fault == "missing":
        del weights[name]
    elif fault == "unexpected":
        weights["stray.weight"] = torch.zeros(2)
    elif fault == "mismatched":
        weights[name] = torch.zeros(3, 3, 3)
    else:
        weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(IntegrityError) as caught:
        ImageGenerator.load(folder, name="foreign")
    assert component in str(caught.value)
    if fault != "mismatched":
        assert fault in str(caught.value)


def test_weights_gone(altered: Altered) -> None:
    folder = altered()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="unet"):
        ImageGenerator.load(folder, name="gone")


def test_tokenizer_without_vocabulary(altered: Altered) -> None:
    folder = altered()
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKEN_LIMIT}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match="no vocabulary"):
        ImageGenerator.load(folder, name="wordless")


def test_repository_code_is_refused(altered: Altered) -> None:
    folder = altered()
    index = json.loads((folder / "model_index.json").read_text())
    changed = index | {"_class_name": ["my_pipeline", "MyPipeline"]}
    (folder / "model_index.json").write_text(json.dumps(changed))
    with pytest.raises(PolicyError, match="own repository"):
        ImageGenerator.load(folder, name="remote")
    changed = index | {"unet": ["my_unet", "MyUnet"]}
    (folder / "model_index.json").write_text(json.dumps(changed))
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit")
    with pytest.raises(PolicyError, match=r"my_unet\.py"):
        ImageGenerator.load(folder, name="remote")


@pytest.mark.parametrize(
    "class_name", ["StableDiffusionInstructPix2PixPipeline", "TextToVideoSDPipeline", "Nothing"]
)
def test_other_pipelines_are_refused(altered: Altered, class_name: str) -> None:
    folder = altered()
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": class_name}))
    with pytest.raises(UnavailableError, match=class_name):
        ImageGenerator.load(folder, name="other")


@pytest.mark.parametrize(
    "text",
    [
        '{"num_inference_steps": 0}',
        '{"num_inference_steps": 1.5}',
        '{"num_inference_steps": true}',
        '{"guidance_scale": -1}',
        '{"guidance_scale": NaN}',
        '{"steps": 4}',
        "[]",
        "{",
    ],
)
def test_wrong_sampling_settings(altered: Altered, text: str) -> None:
    folder = altered()
    (folder / "sampling.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"sampling\.json"):
        ImageGenerator.load(folder, name="wrong")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device(pipeline_folder: Path) -> None:
    with pytest.raises(UnavailableError, match="CUDA"):
        ImageGenerator.load(pipeline_folder, name="tiny", device="cuda")


def test_unknown_device_and_dtype(pipeline_folder: Path) -> None:
    with pytest.raises(UsageError, match="--device"):
        ImageGenerator.load(pipeline_folder, name="tiny", device="abacus")
    with pytest.raises(UsageError, match="--dtype"):
        ImageGenerator.load(pipeline_folder, name="tiny", dtype="int7")


def test_automatic_dtype_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _emulated: True)
    assert pipeline_dtype("auto", torch.device("cpu")) is torch.float32
    assert pipeline_dtype("auto", torch.device("cuda")) is torch.bfloat16


def test_bfloat16_draws_on_the_cpu(pipeline_folder: Path) -> None:
    half = ImageGenerator.load(pipeline_folder, name="tiny", device="cpu", dtype="bfloat16")
    artifacts_of(half.generate(requests_of([1])))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_nearly_the_same(pipeline_folder: Path, generator: ImageGenerator) -> None:
    device = ImageGenerator.load(pipeline_folder, name="tiny", device="cuda", dtype="float32")
    for here, there in zip(
        artifacts_of(generator.generate(requests_of(range(4)))),
        artifacts_of(device.generate(requests_of(range(4)))),
        strict=True,
    ):
        # The noise is the same; TF32 convolutions keep three digits, a level or two of 255.
        assert np.abs(pixels_of(here) - pixels_of(there)).max() <= 4


def test_pipelines_can_be_built_twice_alike() -> None:
    first, second = (build_pipeline().unet.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
