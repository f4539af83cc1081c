"""Decodes clips and sounds in a process of its own, which may be killed at any time.

It is run as a file and imports nothing of llmbind. Before the first file it limits its own memory,
and that it can write no file. Files are opened here and handed to FFmpeg as streams, with a list of
plain containers, so that no playlist or name leads to another file or to a network.

Requests are JSON lines on stdin; a reply is a length, a JSON head of that length and the bytes that
it announces, on stdout.
"""

from __future__ import annotations

import json
import os
import re
import resource
import struct
import sys
from typing import Any, BinaryIO

CONTAINERS = "mov,matroska,webm,avi,gif,mpeg,mpegts,ogg,flv,asf"
"""FFmpeg's names of what is read; playlists, slide shows and devices are not among them."""

_SIZES = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = 0x7FFF_0000
"""Programs that write into a pipe put the largest number where they do not know the size."""

_BLOCK = 1 << 16


class Refused(Exception):
    """A file is no clip or sound that can be scored; the message goes to the user."""


def main() -> None:
    """Serve requests until stdin ends."""
    limits = json.loads(sys.argv[1])
    memory = limits["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the replies
    for line in sys.stdin:
        request = json.loads(line)
        head: dict[str, Any]
        content: list[Any] = []
        try:
            with open(request["path"], "rb") as file:  # noqa: PTH123  no pathlib: starts faster
                if request["kind"] == "video":
                    head, content = read_video(file, limits)
                else:
                    head, content = read_sound(file, limits)
        except Refused as error:
            head = {"error": str(error)}
        except MemoryError:
            head = {"error": f"needs more than {memory >> 20} MiB of memory"}
        except Exception as error:  # decoders raise nearly anything
            head = {"error": f"cannot be decoded: {' '.join(str(error).split())}"}
        encoded = json.dumps(head).encode()
        replies.write(struct.pack("<I", len(encoded)) + encoded)
        for part in content:
            replies.write(part)
        replies.flush()


def read_video(file: BinaryIO, limits: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Decode a clip, and give some of its frames.

    Args:
        file: Its bytes.
        limits: ``frames`` to give, ``video_s`` and ``pixels`` that it may have, ``decoded_frames``.

    Returns:
        Head with ``height``, ``width``, ``indices`` of the frames and ``count`` of all; and the
        frames, uint8, RGB, [height, width, 3] each.

    Raises:
        Refused: No clip, one without frames, truncated, or over a limit.
    """
    import av

    count = _count_packets(av, file, limits)
    wanted = sampled(count, limits["frames"])
    seen, frames, size = _decode(av, file, wanted, limits)
    if seen == 0:
        raise Refused("has no frame")
    if seen != count:  # a packet need not be a frame
        wanted = sampled(seen, limits["frames"])
        _, frames, size = _decode(av, file, wanted, limits)
    head = {"height": size[1], "width": size[0], "indices": wanted, "count": seen}
    return head, frames


def sampled(count: int, frames: int) -> list[int]:
    """Choose frames: the middles of equal parts of a clip, or all of a short one.

    Args:
        count: Frames of the clip.
        frames: How many at most.

    Returns:
        Their indices, floor((2 i + 1) count / 2 frames).
    """
    if count <= frames:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * frames) for part in range(frames)]


def read_sound(file: BinaryIO, limits: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Decode a sound.

    Args:
        file: Its bytes.
        limits: ``sound_s`` that it may last, ``channels`` that it may have.

    Returns:
        Head with ``channels``, ``samples`` and ``sample_rate_hz``; and the samples, float32,
        [samples, channels].

    Raises:
        Refused: No sound, an empty or truncated one, or over a limit.
    """
    import numpy as np
    import soundfile

    with soundfile.SoundFile(file) as sound:
        rate, channels = sound.samplerate, sound.channels
        most = limits["sound_s"] * rate
        if channels > limits["channels"]:
            raise Refused(f"has {channels} channels, more than {limits['channels']}")
        if sound.frames > most:
            raise Refused(
                f"lasts {sound.frames / rate:.0f} s, longer than the {limits['sound_s']} s that "
                "are scored; cut it"
            )
        _refuse_cut_sound(sound.extra_info)
        blocks, total = [], 0
        while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
            total += len(block)
            if total > most:
                raise Refused(f"lasts longer than the {limits['sound_s']} s that are scored")
            blocks.append(block)
        if total < sound.frames:
            raise Refused(f"is truncated: {total} of {sound.frames} samples")
    if not total:
        raise Refused("has no samples")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise Refused("holds NaN or infinity")
    head = {"channels": channels, "samples": total, "sample_rate_hz": rate}
    return head, [samples.tobytes()]


def _refuse_cut_sound(remarks: str) -> None:
    for stated, there in _SIZES.findall(remarks):
        if int(there) < int(stated) < _UNKNOWN_SIZE:
            raise Refused(f"is truncated: {there} of {stated} bytes")
    if "lacks an end-of-stream bit" in remarks:
        raise Refused("is truncated: it has no last page")


def _open(av: Any, file: BinaryIO) -> Any:
    file.seek(0)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "", "err_detect": "explode"}
    return av.open(file, container_options=options, metadata_errors="replace")


def _stream(container: Any, limits: dict[str, Any]) -> Any:
    if not container.streams.video:
        raise Refused("has no picture track")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context.width * context.height > limits["pixels"]:
        raise Refused(f"{context.width} × {context.height} px is more than can be scored")
    length_s = max(
        float(stream.duration * stream.time_base) if stream.duration else 0.0,
        container.duration / 1e6 if container.duration else 0.0,
    )
    if length_s > limits["video_s"]:
        raise Refused(
            f"lasts {length_s:.0f} s, longer than the {limits['video_s']} s that are scored; cut it"
        )
    context.thread_count = 1
    return stream


def _count_packets(av: Any, file: BinaryIO, limits: dict[str, Any]) -> int:
    """Count the packets of the first picture track, and refuse a file that ends early."""
    with _open(av, file) as container:
        stream = _stream(container, limits)
        count, end_s = 0, 0.0
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.is_corrupt:
                raise Refused("is truncated or damaged")
            if packet.stream is stream or packet.stream.index == stream.index:
                count += 1
            if packet.pts is not None:
                length = packet.duration or 0
                end_s = max(end_s, float((packet.pts + length) * packet.time_base))
        start_s = (container.start_time or 0) / 1e6
        stated_s = container.duration / 1e6 if container.duration else 0.0
    if count < stream.frames:
        raise Refused(f"is truncated: {count} of {stream.frames} frames")
    if end_s - start_s < min(0.9 * stated_s, stated_s - 0.5):
        raise Refused(f"is truncated: {end_s - start_s:.1f} of {stated_s:.1f} s")
    return count


def _decode(
    av: Any, file: BinaryIO, wanted: list[int], limits: dict[str, Any]
) -> tuple[int, list[Any], tuple[int, int]]:
    """Decode a clip to its end: its number of frames, those wanted, and their width and height."""
    chosen, frames, size, seen = set(wanted), [], (0, 0), 0
    with _open(av, file) as container:
        for frame in container.decode(_stream(container, limits)):
            if seen >= limits["decoded_frames"]:
                raise Refused(
                    f"has more than the {limits['decoded_frames']} frames that are scored"
                )
            if seen in chosen:
                pixels = frame.to_ndarray(format="rgb24")
                if size not in ((0, 0), (pixels.shape[1], pixels.shape[0])):
                    raise Refused("its frames differ in size")
                if pixels.shape[0] * pixels.shape[1] > limits["pixels"]:
                    raise Refused(
                        f"{pixels.shape[1]} × {pixels.shape[0]} px is more than can be scored"
                    )
                size = (pixels.shape[1], pixels.shape[0])
                frames.append(pixels.tobytes())
            seen += 1
    return seen, frames, size


if __name__ == "__main__":
    main()
