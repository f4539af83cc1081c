"""Clips and sounds decoded in another process: what comes out, and what is refused."""

from __future__ import annotations

import importlib.util
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmbind_cli.errors import InputDataError, UnavailableError
from llmbind_cli.evaluation import media_decode, media_decode_worker
from llmbind_cli.evaluation.media_decode import DecodeLimits, MediaDecoder

av = pytest.importorskip("av", reason="clips are decoded by PyAV")
soundfile = pytest.importorskip("soundfile", reason="sounds are decoded by soundfile")


@pytest.fixture(scope="module")
def decoder():
    with MediaDecoder("video", "sound") as opened:
        yield opened


def write_clip(path, *, n=5, side=32, codec="mpeg4", first=0, rate=8):
    """Frames of one grey each, first + 6 · number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for number in range(n):
            grey = np.full((side, side, 3), (first + 6 * number) % 256, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def tone(n=1600, channels=1, rate=16_000):
    time_s = np.arange(n) / rate
    samples = [
        0.5 * np.sin(2 * np.pi * 440 * (channel + 1) * time_s) for channel in range(channels)
    ]
    return np.stack(samples, axis=1).astype(np.float32)


def test_a_clip_gives_its_frames_in_order(decoder, tmp_path):
    clip = decoder.read_clip(write_clip(tmp_path / "a.mp4", n=5))
    assert clip.frames.shape == (5, 32, 32, 3)
    assert (clip.indices, clip.count) == ((0, 1, 2, 3, 4), 5)
    np.testing.assert_allclose(clip.frames.mean(axis=(1, 2, 3)), 6 * np.arange(5), atol=5)


def test_of_a_long_clip_the_middles_of_equal_parts_are_taken(tmp_path):
    with MediaDecoder("video", limits=DecodeLimits(frames=4)) as few:
        clip = few.read_clip(write_clip(tmp_path / "a.mp4", n=24))
    assert (clip.indices, clip.count) == ((3, 9, 15, 21), 24)
    np.testing.assert_allclose(clip.frames.mean(axis=(1, 2, 3)), [18, 54, 90, 126], atol=10)


@pytest.mark.parametrize("count", [1, 4, 5, 7, 100, 101])
def test_sampled_frames_are_spread_evenly(count):
    chosen = media_decode_worker.sampled(count, 4)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, 4)
    assert [count - 1 - index for index in chosen[::-1]] == pytest.approx(chosen, abs=1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_sound_keeps_its_channels_and_rate(decoder, tmp_path, suffix):
    samples = tone(4000, channels=2, rate=22_050)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, 22_050)
    sound = decoder.read_sound(path)
    assert sound.sample_rate_hz == 22_050
    assert sound.samples.shape == (2, 4000)
    assert sound.samples.dtype == np.float32
    # 16 bits, and a lossy format
    tolerance = 0.1 if suffix == "ogg" else 1e-4
    np.testing.assert_allclose(sound.samples, samples.T, atol=tolerance)


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_a_truncated_sound_is_refused(decoder, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, (64_000, 1)), 16_000)
    with pytest.raises(InputDataError, match=rf"a\.{suffix}: cannot be read as a sound"):
        decoder.read_sound(cut(path))


def test_a_wav_of_unknown_size_is_read_to_its_end(decoder, tmp_path):
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tone(1000), 16_000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFFF_FFFF)
    path.write_bytes(content)
    assert decoder.read_sound(path).samples.shape == (1, 1000)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_truncated_clip_is_refused(decoder, tmp_path, suffix):
    path = write_clip(tmp_path / f"a.{suffix}", n=40, side=64)
    with pytest.raises(InputDataError, match=rf"a\.{suffix}: cannot be read as a video"):
        decoder.read_clip(cut(path, 0.6))


def test_a_clip_whose_index_comes_first_is_found_truncated_too(decoder, tmp_path):
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(24):
            pixels = noise.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InputDataError, match="truncated"):
        decoder.read_clip(cut(path, 0.7))


def test_a_video_without_frames_is_refused(decoder, tmp_path):
    sound_alone = tmp_path / "sound.mp4"
    with av.open(str(sound_alone), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(tone(16_000).T, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputDataError, match="has no picture track"):
        decoder.read_clip(sound_alone)
    empty = tmp_path / "empty.avi"
    with av.open(str(empty), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.open()
        container.start_encoding()
    with pytest.raises(InputDataError, match=r"empty\.avi: cannot be read as a video"):
        decoder.read_clip(empty)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no medium at all", bytes(4096)])
def test_alien_files_are_refused(decoder, tmp_path, content):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(InputDataError, match="cannot be read as a sound"):
        decoder.read_sound(path)
    with pytest.raises(InputDataError, match="cannot be read as a video"):
        decoder.read_clip(path)


def test_a_playlist_leads_nowhere(decoder, tmp_path):
    write_clip(tmp_path / "secret.avi")
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
    (tmp_path / "list.mp4").write_text(head + "secret.avi\n#EXT-X-ENDLIST\n")
    (tmp_path / "cat.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'secret.avi'}\n")
    for name in ("list.mp4", "cat.mp4"):
        with pytest.raises(InputDataError, match=name):
            decoder.read_clip(tmp_path / name)
    assert decoder.read_clip(tmp_path / "secret.avi").count == 5


def test_an_empty_sound_and_one_with_nan_are_refused(decoder, tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16_000)
    with pytest.raises(InputDataError, match="has no samples"):
        decoder.read_sound(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(InputDataError, match="NaN"):
        decoder.read_sound(tmp_path / "nan.wav")


def test_a_wav_of_20_minutes_is_refused_before_it_is_decoded(decoder, tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 16_000, 1, subtype="PCM_U8") as file:
        for _ in range(20):
            file.write(np.zeros(60 * 16_000, dtype=np.float32))
    started = time.monotonic()
    with pytest.raises(InputDataError, match="lasts 1200 s, longer than the 600 s"):
        decoder.read_sound(path)
    assert time.monotonic() - started < 5


def test_limits_of_clips_are_kept(tmp_path):
    path = write_clip(tmp_path / "a.mp4", n=16, side=64)
    for limits, reason in (
        (DecodeLimits(decoded_frames=10), "more than the 10 frames"),
        (DecodeLimits(pixels=1000), "64 × 64 px"),
        (DecodeLimits(video_s=1), "lasts 2 s"),
    ):
        with (
            MediaDecoder("video", limits=limits) as strict,
            pytest.raises(InputDataError, match=reason),
        ):
            strict.read_clip(path)


def test_a_file_that_takes_too_long_or_crashes_costs_only_itself(tmp_path, monkeypatch):
    hanging = tmp_path / "worker.py"
    hanging.write_text(
        "import json, os, signal, struct, sys, time\n"
        "for line in sys.stdin:\n"
        "    path = json.loads(line)['path']\n"
        "    if 'hang' in path: time.sleep(60)\n"
        "    if 'crash' in path: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    head = json.dumps({'error': 'fine'}).encode()\n"
        "    sys.stdout.buffer.write(struct.pack('<I', len(head)) + head)\n"
        "    sys.stdout.buffer.flush()\n"
    )
    monkeypatch.setattr(media_decode_worker, "__file__", str(hanging))
    for name in ("hang.wav", "crash.wav", "good.wav"):
        (tmp_path / name).touch()
    with MediaDecoder("sound", limits=DecodeLimits(timeout_s=1.0)) as decoder:
        for name, reason in (
            ("good.wav", "fine"),
            ("hang.wav", "took longer than 1 s"),
            ("good.wav", "fine"),
            ("crash.wav", "ended with signal 11"),
            ("good.wav", "fine"),
        ):
            with pytest.raises(InputDataError, match=reason):
                decoder.read_sound(tmp_path / name)


def test_memory_is_limited(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((4_000_000, 8), dtype=np.float32), 16_000, subtype="PCM_U8")
    limits = DecodeLimits(memory_bytes=400 << 20)
    with (
        MediaDecoder("sound", limits=limits) as strict,
        pytest.raises(InputDataError, match=r"memory|ended with"),
    ):
        strict.read_sound(path)


def test_the_decoding_process_can_write_no_file(decoder, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16_000)
    decoder.read_sound(tmp_path / "a.wav")
    limits = (f"/proc/{worker.process.pid}/limits" for worker in decoder._all)
    for path in limits:
        with open(path) as file:  # noqa: PTH123
            (line,) = [line for line in file if line.startswith("Max file size")]
        assert line.split()[3:5] == ["0", "0"]


def test_threads_and_odd_names(decoder, tmp_path):
    names = ["größe.wav", "日本.wav", "a b\n.wav", os.fsdecode(b"\xff.wav")]
    for number, name in enumerate(names):
        soundfile.write(os.fsencode(tmp_path / name), tone(1000 + number), 16_000, format="WAV")
    with ThreadPoolExecutor(max_workers=3) as pool:
        sounds = list(pool.map(decoder.read_sound, [tmp_path / name for name in names] * 3))
    assert [sound.samples.shape[1] for sound in sounds] == [1000, 1001, 1002, 1003] * 3


def test_pipes_are_no_files(decoder, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputDataError, match="no such file"):
        decoder.read_sound(tmp_path / "pipe.wav")


@pytest.mark.parametrize(("kind", "package"), [("video", "av"), ("sound", "soundfile")])
def test_without_its_package_it_is_69_and_names_the_extra(monkeypatch, kind, package):
    found = importlib.util.find_spec
    hide = lambda name, *rest: None if name == package else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(media_decode.importlib.util, "find_spec", hide)
    with pytest.raises(
        UnavailableError, match=rf"{package}: pip install 'llmbind\[media\]'"
    ) as error:
        MediaDecoder(kind)
    assert error.value.exit_code == 69
