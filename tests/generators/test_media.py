from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from llmbind_cli.generators import media

PROVENANCE = media.Provenance(prompt="a cát, ☃", seed=5, model="tiny", model_hash="ab" * 32)
FACTS = {
    "prompt": "a cát, ☃",
    "seed": "5",
    "model": "tiny",
    "model_hash": "ab" * 32,
    "software": media.SOFTWARE,
}


def moving_square(*, frames: int = 6, height: int = 34, width: int = 48) -> media.Array:
    """Return a white square that moves over a colour gradient, [frames, height, width, 3]."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 0] = 200
    clip[..., 1] = np.linspace(0, 255, width, dtype=np.uint8)
    for index in range(frames):
        clip[index, 4:14, 5 * index : 5 * index + 10] = 255
    return clip


def decoded(payload: bytes) -> np.ndarray:
    with av.open(io.BytesIO(payload)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_png_tells_its_making() -> None:
    pixels = moving_square()[0]
    with Image.open(io.BytesIO(media.png(pixels, PROVENANCE))) as picture:
        assert picture.text == FACTS  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(picture), pixels)


def test_hostile_prompts_stay_text() -> None:
    odd = media.Provenance(prompt="a\0b\ud800", seed=0, model="m", model_hash="h")
    with Image.open(io.BytesIO(media.png(moving_square()[0], odd))) as picture:
        assert picture.text["prompt"] == "a b?"  # type: ignore[attr-defined]
    assert len(media.mp4(moving_square(), odd, fps=8)) > 0
    sound = soundfile.SoundFile(io.BytesIO(media.wav(np.zeros(8), odd, sample_rate_hz=8000)))
    assert sound.title == "a b?"


def test_mp4_is_what_browsers_play() -> None:
    payload = media.mp4(moving_square(), PROVENANCE, fps=12)
    assert payload[4:8] == b"ftyp"
    assert 0 < payload.find(b"moov") < payload.find(b"mdat")  # plays while it loads
    with av.open(io.BytesIO(payload)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, stream.profile, stream.pix_fmt) == ("h264", "Main", "yuv420p")
        assert stream.average_rate == Fraction(12)
        assert (context.colorspace, context.color_range) == (1, 1)  # BT.709, limited
        assert container.metadata["title"] == FACTS["prompt"]
        assert container.metadata["comment"] == PROVENANCE.comment()


def test_mp4_keeps_the_pixels() -> None:
    clip = moving_square()
    error = np.abs(decoded(media.mp4(clip, PROVENANCE, fps=8)).astype(int) - clip)
    # Halved chroma smears the square's edges, so some pixels are far off, and few.
    assert error.mean() < 3
    assert np.median(error) <= 2


def test_odd_sides_are_made_even() -> None:
    clip = moving_square(height=33, width=47)
    back = decoded(media.mp4(clip, PROVENANCE, fps=8))
    assert back.shape == (6, 34, 48, 3)
    assert np.abs(back[:, :33, :47].astype(int) - clip).mean() < 3


@pytest.mark.parametrize(
    ("colour", "luma", "blue_difference", "red_difference"),
    [
        # ITU-R BT.709 at 8 bits: E' = 16 + 219 Y', C = 128 + 224 C'.
        ((0, 0, 0), 16, 128, 128),
        ((255, 255, 255), 235, 128, 128),
        ((255, 0, 0), 63, 102, 240),
        ((0, 255, 0), 173, 42, 26),
        ((0, 0, 255), 32, 240, 118),
    ],
)
def test_colours_follow_the_standard(
    colour: tuple[int, int, int], luma: int, blue_difference: int, red_difference: int
) -> None:
    frame = np.full((1, 4, 6, 3), colour, np.uint8)
    planes = media._yuv420(frame)[0]
    assert planes.shape == (6, 6)
    assert set(planes[:4].flat) == {luma}
    assert set(planes[4:].flat[:6]) == {blue_difference}
    assert set(planes[4:].flat[6:]) == {red_difference}


def test_the_same_frames_give_the_same_bytes_wherever_they_lie() -> None:
    generator = np.random.default_rng(3)
    clip = generator.integers(0, 256, (4, 48, 32, 3), dtype=np.uint8)
    payloads = set()
    for offset in range(40):
        # Moves what is allocated next to another place.
        ballast = [np.full(int(size), offset) for size in generator.integers(100, 9000, 8)]
        moved = np.frombuffer(b"x" * offset + clip.tobytes(), np.uint8)[offset:].reshape(clip.shape)
        payloads.add(media.mp4(moved, PROVENANCE, fps=8))
        del ballast
    assert len(payloads) == 1


def test_gif_repeats_in_hundredths_of_a_second() -> None:
    payload = media.gif(moving_square(), PROVENANCE, fps=8)
    assert payload == media.gif(moving_square(), PROVENANCE, fps=8)
    with Image.open(io.BytesIO(payload)) as clip:
        assert (clip.format, clip.size, clip.n_frames) == ("GIF", (48, 34), 6)  # type: ignore[attr-defined]
        assert (clip.info["duration"], clip.info["loop"]) == (120, 0)
        assert clip.info["comment"].decode() == PROVENANCE.comment()


def test_gif_of_one_frame() -> None:
    with Image.open(io.BytesIO(media.gif(moving_square(frames=1), PROVENANCE, fps=120))) as clip:
        assert clip.n_frames == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sounds_keep_their_samples(kind: str, channels: int) -> None:
    encode = {"wav": media.wav, "flac": media.flac}[kind]
    ramp = np.linspace(-1.2, 1.2, 601)
    samples = ramp if channels == 1 else np.stack([ramp, -ramp], axis=1)
    payload = encode(samples, PROVENANCE, sample_rate_hz=8000)
    assert payload == encode(samples, PROVENANCE, sample_rate_hz=8000)
    with soundfile.SoundFile(io.BytesIO(payload)) as sound:
        assert (sound.samplerate, sound.channels, sound.subtype) == (8000, channels, "PCM_16")
        assert (sound.title, sound.comment) == (FACTS["prompt"], PROVENANCE.comment())
        levels = sound.read(dtype="int16")
    assert np.array_equal(levels, np.round(samples.clip(-1, 1) * 32767))
