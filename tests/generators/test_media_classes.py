"""Every video and audio pipeline class that docs/generators.md names, end to end."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from saved_pipelines import SavedPipelines
from tiny_pipeline_media import SAMPLE_RATE_HZ, build_media_pipeline

from llmbind_cli.errors import IntegrityError, UnavailableError, UsageError
from llmbind_cli.generators.base import GeneratedArtifact, GenerationOutcome, GeneratorRequest
from llmbind_cli.generators.pipeline_folder import assemble
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.generators.settings import GeneratorSettings

# Class, a number of frames it can make, frames per second of its published weights.
CLIPS = [
    ("TextToVideoSDPipeline", 4, 8),
    ("AnimateDiffPipeline", 6, 8),
    ("CogVideoXPipeline", 9, 8),
    ("WanPipeline", 5, 16),
]
SOUNDS = [("AudioLDMPipeline", 1), ("AudioLDM2Pipeline", 1), ("StableAudioPipeline", 2)]
REQUESTS = [GeneratorRequest(prompt="a cat", seed=seed) for seed in (1, 1, 2)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedPipelines:
    """Gives the folder of a small pipeline of a class, saved once."""
    return SavedPipelines(tmp_path_factory.mktemp("classes"), build_media_pipeline)


def load(folder: Path, modality: str, **settings: Any) -> PipelineGenerator:
    wished = GeneratorSettings(**{"steps": 2} | settings)
    generators = GeneratorRegistry(overrides={modality: str(folder)}, device="cpu", settings=wished)
    loaded = generators.load(modality)
    assert isinstance(loaded, PipelineGenerator)
    return loaded


def clips(folder: Path, **settings: Any) -> list[GenerationOutcome]:
    return load(folder, "video", **{"width": 32, "height": 48} | settings).generate(REQUESTS)


def payload(outcome: GenerationOutcome) -> bytes:
    assert isinstance(outcome, GeneratedArtifact), outcome
    return outcome.payload


@pytest.mark.parametrize(("class_name", "frames", "fps"), CLIPS)
def test_clips(saved: Any, class_name: str, frames: int, fps: int) -> None:
    first, again, other = clips(saved(class_name), frames=frames)
    assert isinstance(first, GeneratedArtifact)
    assert (first.media_type, first.suffix) == ("video/mp4", ".mp4")
    assert first.payload == payload(again)
    assert first.payload != payload(other)
    with av.open(io.BytesIO(first.payload)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (32, 48)
        assert stream.average_rate == fps
        # The container counts in its own ticks, of less than a millisecond.
        length_s = float(stream.duration * stream.time_base)
        assert length_s == pytest.approx(frames / fps, abs=1e-3)
        assert "a cat" in container.metadata["comment"]
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(pictures) == frames
    assert np.std(pictures) > 10


def test_a_clip_as_gif_with_frames_from_seconds(saved: Any) -> None:
    # 0.55 s of 10 a second are 6 frames, and the next number that Wan makes is 9.
    first, *_ = clips(saved("WanPipeline"), seconds=0.55, fps=10, video_format="gif")
    with Image.open(io.BytesIO(payload(first))) as clip:
        assert (clip.format, clip.size) == ("GIF", (32, 48))
        assert clip.n_frames == 9  # type: ignore[attr-defined]
        assert clip.info["duration"] == 100


def test_frames_per_second_of_the_pipeline_itself(saved: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(saved("TextToVideoSDPipeline"), tmp_path / "fast")
    (folder / "sampling.json").write_text('{"fps": 12, "num_inference_steps": 1}')
    own = load(folder, "video", steps=None, frames=2)
    assert own.fps == 12  # type: ignore[attr-defined]
    assert load(folder, "video", fps=5).fps == 5  # type: ignore[attr-defined]
    assert len(payload(own.generate(REQUESTS[:1])[0])) > 0


@pytest.mark.parametrize(
    ("class_name", "settings", "word"),
    [
        ("CogVideoXPipeline", {"frames": 5}, "multiple of 8 and one more"),
        ("WanPipeline", {"frames": 6}, "multiple of 4 and one more .* 5 is near"),
        ("AnimateDiffPipeline", {"frames": 9}, "at most 8"),
        ("WanPipeline", {"width": 40, "height": 24}, "multiple of 16 px"),
    ],
)
def test_lengths_and_sizes_that_a_pipeline_cannot_make(
    saved: Any, class_name: str, settings: dict[str, int], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        load(saved(class_name), "video", **settings)


@pytest.mark.parametrize(("class_name", "channels"), SOUNDS)
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_sounds(saved: Any, class_name: str, channels: int, kind: str) -> None:
    generator = load(saved(class_name), "audio", seconds=0.5, audio_format=kind)
    first, again, other = generator.generate(REQUESTS)
    assert isinstance(first, GeneratedArtifact)
    assert (first.media_type, first.suffix) == (f"audio/{kind}", f".{kind}")
    assert first.payload == payload(again)
    assert first.payload != payload(other)
    with soundfile.SoundFile(io.BytesIO(first.payload)) as sound:
        assert (sound.samplerate, sound.channels) == (SAMPLE_RATE_HZ, channels)
        assert (sound.format, sound.subtype) == (kind.upper(), "PCM_16")
        assert sound.frames == SAMPLE_RATE_HZ // 2
        assert sound.title == "a cat"
        assert np.std(sound.read()) > 0.01


def test_a_sound_of_the_pipelines_own_length(saved: Any) -> None:
    # 125 latents of 64 samples each: what its configuration says.
    (outcome,) = load(saved("StableAudioPipeline"), "audio").generate(REQUESTS[:1])
    assert soundfile.info(io.BytesIO(payload(outcome))).duration == 1.0


def test_a_sound_too_long(saved: Any) -> None:
    with pytest.raises(UsageError, match=r"at most 1 s, got 1\.5"):
        load(saved("StableAudioPipeline"), "audio", seconds=1.5)


@pytest.mark.parametrize(
    ("class_name", "modality", "setting", "package"),
    [
        ("TextToVideoSDPipeline", "video", {}, "av"),
        ("AudioLDMPipeline", "audio", {}, "soundfile"),
        ("AudioLDMPipeline", "audio", {"audio_format": "flac"}, "soundfile"),
    ],
)
def test_an_encoder_that_is_not_installed(
    saved: Any,
    monkeypatch: pytest.MonkeyPatch,
    class_name: str,
    modality: str,
    setting: dict[str, str],
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnavailableError, match=rf"package {package} .*llmbind\[media\]"):
        load(saved(class_name), modality, **setting)


def test_a_gif_needs_no_video_package(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    first, *_ = clips(saved("TextToVideoSDPipeline"), frames=2, video_format="gif")
    assert payload(first)[:4] == b"GIF8"


def test_a_part_that_needs_another_package(tmp_path: Path) -> None:
    class Needy:
        """As diffusers' stand-in for the scheduler of Stable Audio without torchsde."""

        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            raise ImportError("CosineDPMSolverMultistepScheduler requires the torchsde library")

    with pytest.raises(UnavailableError, match=r"torchsde .*llmbind\[media\]"):
        assemble(Needy, tmp_path, {})


@pytest.mark.parametrize("class_name", ["WanPipeline", "AudioLDM2Pipeline"])
@pytest.mark.parametrize("fault", ["pickled", "truncated", "gone"])
def test_faulty_weights(saved: Any, tmp_path: Path, class_name: str, fault: str) -> None:
    folder = shutil.copytree(saved(class_name), tmp_path / "faulty")
    modality = "video" if class_name == "WanPipeline" else "audio"
    (weights,) = (folder / "vae").glob("*.safetensors")
    if fault == "pickled":
        weights.rename(weights.with_suffix(".bin"))
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-8])
    else:
        weights.unlink()
    with pytest.raises(IntegrityError, match="vae"):
        load(folder, modality)
