"""Pixels and samples as the bytes of whole files: PNG, MP4, GIF, WAV and FLAC.

Every encoder gives the same bytes for the same input under the same versions of its libraries:
no dates, no random serial numbers, one thread. What is known of a file's making goes into the
place that its format has for it.
"""

from __future__ import annotations

import importlib
import io
import json
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli import __version__
from llmbind_cli.errors import UnavailableError

Array = np.ndarray[Any, Any]

MEDIA_TYPES = {
    "png": "image/png",
    "mp4": "video/mp4",
    "gif": "image/gif",
    "wav": "audio/wav",
    "flac": "audio/flac",
}
SOFTWARE = f"llmbind {__version__}"

_CONSTANT_QUALITY = "18"  # x264's scale of 0 to 51; below 18 few people see the difference
_GIF_TICK_MS = 10


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a file tells about its making.

    Attributes:
        prompt: What the generator was asked for.
        seed: Of this item.
        model: Name of the generator, without a path.
        model_hash: sha256 of the generator's weights and configuration.
    """

    prompt: str
    seed: int
    model: str
    model_hash: str

    def fields(self) -> dict[str, str]:
        """Return the facts as text by name, with the software's version; always valid UTF-8."""
        return {
            # A lone surrogate cannot be written as UTF-8, and NUL ends a text in most formats.
            "prompt": self.prompt.encode("utf-8", "replace").decode("utf-8").replace("\0", " "),
            "seed": str(self.seed),
            "model": self.model,
            "model_hash": self.model_hash,
            "software": SOFTWARE,
        }

    def comment(self) -> str:
        """Return the facts as one JSON object, for formats with a single comment."""
        return json.dumps(self.fields(), ensure_ascii=False)


def levels_of(pixels: Array) -> Array:
    """Turn pixels of any shape in [0, 1] into 8-bit levels; what lies outside is cut off."""
    levels: Array = (pixels.clip(0.0, 1.0) * 255).round().astype(np.uint8)
    return levels


def resized(pixels: Array, size_px: int) -> Array:
    """Scale a square picture, uint8, [S, S, 3], to ``size_px`` on each side."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((size_px, size_px), Image.Resampling.LANCZOS))


def png(pixels: Array, provenance: Provenance) -> bytes:
    """Encode a picture as an 8-bit RGB PNG with a text chunk for each fact.

    Args:
        pixels: uint8, [height, width, 3].
        provenance: Goes into ``iTXt`` chunks.
    """
    from PIL import Image, PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    for key, value in provenance.fields().items():
        chunks.add_itxt(key, value)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(stream, format="PNG", pnginfo=chunks)
    return stream.getvalue()


def mp4(frames: Array, provenance: Provenance, *, fps: int) -> bytes:
    """Encode a clip as H.264 in an MP4 that browsers play while it still loads.

    Main profile, 4:2:0 in the limited range of BT.709, index in front. H.264 of this kind needs
    even sides: an odd one gets its last row or column twice.

    Args:
        frames: uint8, [frames, height, width, 3].
        provenance: The prompt becomes the title, all facts as JSON the comment.
        fps: Frames per second.

    Raises:
        UnavailableError: PyAV is not installed.
    """
    av = _imported("av", "MP4 files")
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    planes = _yuv420(frames)
    # To put the index in front the writer reads the file again, which only a named one allows.
    with tempfile.TemporaryDirectory(prefix="llmbind-") as folder:
        path = Path(folder) / "clip.mp4"
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(path, "w", options=options) as container:
            container.metadata["title"] = provenance.fields()["prompt"]
            container.metadata["comment"] = provenance.comment()
            settings = {
                "crf": _CONSTANT_QUALITY,
                "preset": "veryfast",
                "profile": "main",
                "threads": "1",
                # Some of x264's vector code gives other bytes now and then for the same frames (14
                # of 200 encodings on an AVX-512 machine); its plain code gives one file everywhere.
                "x264-params": "asm=0",
            }
            stream = container.add_stream("libx264", rate=Fraction(fps), options=settings)
            stream.height, stream.width = planes.shape[1] * 2 // 3, planes.shape[2]
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.thread_count = 1
            context.colorspace = Colorspace.ITU709.value
            context.color_range = ColorRange.MPEG.value
            context.color_primaries = ColorPrimaries.BT709.value
            context.color_trc = ColorTrc.BT709.value
            for frame in planes:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="yuv420p")))
            container.mux(stream.encode())
        return path.read_bytes()


def _yuv420(frames: Array) -> Array:
    """Turn RGB frames into BT.709 luma and halved chroma, both in the limited range.

    Written out, since the converter of FFmpeg rounds by where in memory a frame happens to lie.

    Args:
        frames: uint8, [frames, height, width, 3].

    Returns:
        uint8, [frames, rows, columns]: height made even and half as many rows again; the last
        third holds both chroma planes, as FFmpeg's ``yuv420p`` lays them out.
    """
    rows, columns = frames.shape[1] % 2, frames.shape[2] % 2
    even = np.pad(frames, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
    count, height, width, _ = even.shape
    planes = np.empty((count, height * 3 // 2, width), np.uint8)
    red_weight, green_weight, blue_weight = 0.2126, 0.7152, 0.0722  # ITU-R BT.709-6, item 3.2
    for index, pixels in enumerate(even):
        red, green, blue = np.moveaxis(pixels.astype(np.float64) / 255, -1, 0)
        luma = red_weight * red + green_weight * green + blue_weight * blue
        chroma = [(blue - luma) / 1.8556, (red - luma) / 1.5748]  # item 3.3
        planes[index, :height] = np.rint(16 + 219 * luma)
        halves = [c.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for c in chroma]
        levels = np.rint(128 + 224 * np.stack(halves))
        planes[index, height:] = levels.reshape(height // 2, width)
    return planes


def gif(frames: Array, provenance: Provenance, *, fps: int) -> bytes:
    """Encode a clip as a GIF that repeats for ever, each frame in 256 colours of its own.

    GIF counts time in hundredths of a second: the nearest number of them is taken, at least one.
    Frames that are exactly alike become one that is shown longer.

    Args:
        frames: uint8, [frames, height, width, 3].
        provenance: Goes into the comment as JSON.
        fps: Frames per second.
    """
    from PIL import Image

    first, *rest = [Image.fromarray(pixels).convert("RGB") for pixels in frames]
    stream = io.BytesIO()
    first.save(
        stream,
        format="GIF",
        save_all=True,
        append_images=rest,
        duration=max(1, round(1000 / fps / _GIF_TICK_MS)) * _GIF_TICK_MS,
        loop=0,
        comment=provenance.comment().encode(),
    )
    return stream.getvalue()


def wav(samples: Array, provenance: Provenance, *, sample_rate_hz: int) -> bytes:
    """Encode a sound as 16-bit PCM WAV.

    Args:
        samples: float, [samples] or [samples, channels], in [-1, 1]; what lies outside is cut off.
        provenance: The prompt becomes the title, all facts as JSON the comment.
        sample_rate_hz: Samples per second and channel.

    Raises:
        UnavailableError: soundfile is not installed.
    """
    return _sound(samples, provenance, sample_rate_hz, "WAV")


def flac(samples: Array, provenance: Provenance, *, sample_rate_hz: int) -> bytes:
    """Encode a sound as 16-bit FLAC; arguments and errors as for :func:`wav`."""
    return _sound(samples, provenance, sample_rate_hz, "FLAC")


def _sound(samples: Array, provenance: Provenance, sample_rate_hz: int, kind: str) -> bytes:
    soundfile = _imported("soundfile", f"{kind} files")
    levels = (samples.astype(np.float64).clip(-1.0, 1.0) * 32767).round().astype(np.int16)
    channels = 1 if levels.ndim == 1 else levels.shape[1]
    stream = io.BytesIO()
    with soundfile.SoundFile(
        stream, "w", sample_rate_hz, channels, subtype="PCM_16", format=kind
    ) as file:
        file.title = provenance.fields()["prompt"]
        file.comment = provenance.comment()
        file.write(levels)
    return stream.getvalue()


def require_encoder(suffix: str) -> None:
    """Refuse a file format whose library is missing, before anything is made for it.

    Args:
        suffix: A key of :data:`MEDIA_TYPES`.

    Raises:
        UnavailableError: Names the package and the extra that brings it.
    """
    package = {"mp4": "av", "wav": "soundfile", "flac": "soundfile"}.get(suffix)
    if package is not None:
        _imported(package, f"{suffix.upper()} files")


def _imported(package: str, what: str) -> Any:
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: soundfile without its shared library
        raise UnavailableError(
            f"{what} need the package {package} ({error}): pip install 'llmbind[media]'"
        ) from error
