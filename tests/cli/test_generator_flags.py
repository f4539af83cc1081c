"""The flags of the generators: what they take, and that each reaches the pipeline."""

from __future__ import annotations

import io
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from saved_pipelines import SavedPipelines
from tiny_pipeline_media import build_media_pipeline
from tiny_pipeline_pictures import build_picture_pipeline

from llmbind_cli.app import main
from llmbind_cli.commands import generator_flags
from llmbind_cli.commands.generator_flags import GeneratorFlags
from llmbind_cli.errors import UsageError
from llmbind_cli.generators import settings as settings_module
from llmbind_cli.generators.pipeline_folder import quiet_libraries
from llmbind_cli.generators.pipeline_generator import PipelineGenerator
from llmbind_cli.generators.settings import GeneratorSettings
from llmbind_cli.inference.dispatch import item_seed

ALL = [
    (["--steps", "3"], {"steps": 3}),
    (["--guidance", "2.5"], {"guidance": 2.5}),
    (["--negative-prompt", "a dog"], {"negative_prompt": "a dog"}),
    (["--preset", "lcm"], {"preset": "lcm"}),
    (["--preset", "turbo"], {"preset": "turbo"}),
    (["--cpu-offload"], {"cpu_offload": True}),
    (["--vae-slicing"], {"vae_slicing": True}),
    (["--memory-budget", "0.5"], {"memory_budget_gib": 0.5}),
]
SIZE = (["--size", "48x24"], {"width": 48, "height": 24})
OWN = {
    "image": [SIZE],
    "edit": [SIZE, (["--strength", "0.25"], {"strength": 0.25})],
    "video": [
        SIZE,
        (["--frames", "5"], {"frames": 5}),
        (["--fps", "12"], {"fps": 12}),
        (["--seconds", "1.5"], {"seconds": 1.5}),
        (["--video-format", "gif"], {"video_format": "gif"}),
    ],
    "audio": [
        (["--seconds", "1.5"], {"seconds": 1.5}),
        (["--audio-format", "flac"], {"audio_format": "flac"}),
    ],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> SavedPipelines:
    return SavedPipelines(tmp_path_factory.mktemp("pictures"), build_picture_pipeline)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> SavedPipelines:
    return SavedPipelines(tmp_path_factory.mktemp("media"), build_media_pipeline)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), "teal").save(path)
    return path


@pytest.fixture
def make(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Hand the words "a cat" to a generator; return exit code, the file's content and stderr."""

    def run(modality: str, source: Path, *arguments: str) -> tuple[int, bytes, str]:
        command = ["generate", "--direct", "--modality", modality, "a cat"]
        if modality == "edit":
            command = ["edit", "--direct", str(photo), "a cat"]
        where = ["--out", str(tmp_path / "out"), "--generator", f"{modality}={source}"]
        capsys.readouterr()  # what libraries said while the pipeline was built
        code = main([*command, *where, *arguments])
        captured = capsys.readouterr()
        made = captured.out.strip()
        return code, Path(made).read_bytes() if made else b"", captured.err

    return run


def test_a_flag_for_each_setting() -> None:
    flags = {field.name: field.default for field in fields(GeneratorFlags)}
    settings = {field.name: field.default for field in fields(GeneratorSettings)}
    size, sides = flags.pop("size"), (settings.pop("width"), settings.pop("height"))
    assert (size, sides) == (None, (None, None))
    flags["memory_budget_gib"] = flags.pop("memory_budget")
    assert flags == settings
    assert tuple(generator_flags.Preset) == settings_module.PRESETS
    assert tuple(generator_flags.VideoFormat) == settings_module.VIDEO_FORMATS
    assert tuple(generator_flags.AudioFormat) == settings_module.AUDIO_FORMATS


def test_ranges_are_those_of_the_settings() -> None:
    hints = get_type_hints(GeneratorFlags, include_extras=True)
    ranged = []
    for name, hint in hints.items():
        (option,) = getattr(hint, "__metadata__", [None])
        if option is None or option.min is None:
            continue
        ranged.append(name)
        whole = isinstance(getattr(GeneratorSettings(**{name: option.min}), name), int)
        GeneratorSettings(**{name: option.max})
        for bound, side in ((option.min, -1), (option.max, 1)):
            beyond = bound + side if whole else math.nextafter(bound, side * math.inf)
            with pytest.raises(UsageError):
                GeneratorSettings(**{name: beyond})
    assert ranged == ["steps", "guidance", "frames", "fps", "seconds", "strength"]


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("--steps", "0", "1<=x<=1000"),
        ("--steps", "2.5", "not a valid int"),
        ("--guidance", "-1", "0<=x<=100"),
        ("--guidance", "nan", "0 to 100, got nan"),
        ("--size", "512", "write WIDTHxHEIGHT in px, 8 to 8192 each, such as 512x512"),
        ("--size", "4x512", "the width of --size must be a whole number of 8 to 8192 px, got 4"),
        ("--size", "512x9999", "the height of --size must"),
        ("--frames", "0", "1<=x<=10000"),
        ("--fps", "121", "1<=x<=120"),
        ("--seconds", "0", "0.01<=x<=3600"),
        ("--strength", "1.5", "0.01<=x<=1"),
        ("--negative-prompt", " ", "must hold words"),
        ("--preset", "fast", "'lcm', 'turbo'"),
        ("--video-format", "avi", "'mp4', 'gif'"),
        ("--audio-format", "mp3", "'wav', 'flac'"),
        ("--memory-budget", "0", "1e-06 to 1e+06 GiB"),
    ],
)
def test_a_bad_value_names_flag_and_range(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, reason: str
) -> None:
    assert main(["chat", flag, value, "a cat"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert flag in error
    assert reason in error


@pytest.mark.parametrize(
    ("modality", "arguments", "expected"),
    [
        pytest.param(modality, arguments, expected, id=f"{modality}{arguments[0]}")
        for modality, own in OWN.items()
        for arguments, expected in [*ALL, *own]
    ],
)
def test_a_flag_reaches_the_generator(
    make: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    modality: str,
    arguments: list[str],
    expected: dict[str, Any],
) -> None:
    asked = []

    def load(_class: object, _folder: Path, *, settings: GeneratorSettings, **_rest: Any) -> None:
        asked.append(settings)
        raise UsageError("seen")

    monkeypatch.setattr(PipelineGenerator, "load", classmethod(load))
    monkeypatch.setattr("llmbind_cli.generators.memory.planned_bytes", lambda *_, **__: 0)
    code, _, error = make(modality, tmp_path, *arguments)
    assert (code, error) == (2, "llmbind: error: seen\n")
    assert asked == [GeneratorSettings(**expected)]


def test_a_picture_is_what_the_plain_pipeline_draws(make: Any, pictures: SavedPipelines) -> None:
    folder = pictures("StableDiffusionPipeline")
    wished = ["--steps", "3", "--guidance", "4", "--size", "48x24", "--negative-prompt", "a dog"]
    code, made, _ = make("image", folder, *wished)
    assert code == 0
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
            generator=torch.Generator().manual_seed(item_seed(0, "prompt")),
        ).images[0]
    with Image.open(io.BytesIO(made)) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_a_preset_says_what_it_sets(make: Any, pictures: SavedPipelines) -> None:
    code, _, error = make("image", pictures("StableDiffusionPipeline"), "--preset", "turbo")
    assert code == 0
    assert "preset turbo: EulerAncestralDiscreteScheduler, 1 steps, guidance 0" in error


def test_an_edit_follows_its_strength(make: Any, pictures: SavedPipelines) -> None:
    folder = pictures("StableDiffusionImg2ImgPipeline")
    made = {s: make("edit", folder, "--steps", "4", "--strength", s)[1] for s in ("0.25", "1")}
    assert made["0.25"] != made["1"]
    code, _, error = make("edit", folder, "--steps", "4", "--strength", "0.1")
    assert code == 2
    assert "--strength 0.1 of 4 steps leaves none to run; raise it to 0.25 or --steps" in error


def test_a_clip_has_its_frames_rate_and_format(make: Any, media: SavedPipelines) -> None:
    wished = ["--frames", "3", "--fps", "5", "--video-format", "gif", "--size", "16x16"]
    code, made, _ = make("video", media("TextToVideoSDPipeline"), *wished, "--steps", "1")
    assert code == 0
    with Image.open(io.BytesIO(made)) as clip:
        assert (clip.format, clip.n_frames, clip.size) == ("GIF", 3, (16, 16))
        assert clip.info["duration"] == 200


def test_a_sound_has_its_length_and_format(make: Any, media: SavedPipelines) -> None:
    wished = ["--seconds", "0.5", "--audio-format", "flac", "--steps", "1"]
    code, made, _ = make("audio", media("AudioLDMPipeline"), *wished)
    assert code == 0
    sound = soundfile.info(io.BytesIO(made))
    assert (sound.format, sound.duration) == ("FLAC", 0.5)


@pytest.mark.parametrize(
    ("modality", "arguments", "reason"),
    [
        ("image", ["--fps", "8"], "--fps is for video; this run makes image"),
        ("image", ["--seconds", "8"], "--seconds is for video and audio; this run makes image"),
        ("video", ["--audio-format", "flac"], "--audio-format is for audio"),
        ("audio", ["--size", "64x64"], "the width of --size is for image and edit and video"),
    ],
)
@pytest.mark.parametrize("way", [["a cat"], ["--direct", "a cat"], ["--from", "r.jsonl"]])
def test_a_flag_for_another_modality_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    modality: str,
    arguments: list[str],
    reason: str,
    way: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.jsonl").write_text('{"id": "1", "prompt": "a cat"}\n')
    # No such bundle: what is wrong with the flags is said before one is looked for.
    where = ["--model", "nowhere", "--generator", f"{modality}={tmp_path}"]
    assert main(["generate", "--modality", modality, *where, *arguments, *way]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("rows", [[{"modality": "video"}, {}], [{"modality": "video"}]])
def test_lines_that_name_their_modality_count(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row | {"prompt": "a cat"}) + "\n" for row in rows))
    batch = ["generate", "--from", str(path), "--dry-run", "--out", str(tmp_path / "out")]
    assert main([*batch, "--modality", "image", "--fps", "8"]) == 0
    # A line without one lets the model choose.
    assert main([*batch, "--audio-format", "flac"]) == (0 if {} in rows else 2)
    assert ("--audio-format is for audio" in capsys.readouterr().err) == ({} not in rows)
