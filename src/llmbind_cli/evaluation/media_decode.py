"""Clips and sounds from disk, decoded in other processes with limits on time, memory and length.

What decodes media is large, written in C and fed with files of unknown origin. A process that
crashes, hangs or wants too much memory is ended, the file is named, and the next file gets a new
process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import struct
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np

from llmbind_cli.errors import InputDataError, UnavailableError
from llmbind_cli.evaluation import media_decode_worker
from llmbind_cli.metrics.extractors.extractor import Sound

Array = np.ndarray[Any, Any]
Kind = Literal["video", "sound"]

_PACKAGES = {"video": "av", "sound": "soundfile"}
_HEAD = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What a file may cost.

    Attributes:
        frames: Frames of a clip that are scored; see :func:`~llmbind_cli.evaluation
            .media_decode_worker.sampled` for which.
        decoded_frames: Frames that a clip may have.
        pixels: Of a frame.
        video_s: Length of a clip in seconds.
        sound_s: Length of a sound in seconds.
        channels: Of a sound.
        memory_bytes: Address space of a decoding process.
        timeout_s: Time that a file may take.
    """

    frames: int = 16
    decoded_frames: int = 20_000
    pixels: int = 4096 * 4096
    video_s: int = 600
    sound_s: int = 600
    channels: int = 16
    memory_bytes: int = 4 << 30
    timeout_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Some frames of a clip.

    Attributes:
        frames: uint8, sRGB, [F, H, W, 3].
        indices: Which frames these are, counted from 0.
        count: Frames of the whole clip.
    """

    frames: Array
    indices: tuple[int, ...]
    count: int


class MediaDecoder:
    """Decodes files for any number of threads, each file in a process that is none of this one.

    Args:
        kinds: What will be decoded; the packages for it must be there.
        limits: What a file may cost.

    Raises:
        UnavailableError: The package that decodes a kind is missing (fault 36).
    """

    def __init__(self, *kinds: Kind, limits: DecodeLimits | None = None) -> None:
        for kind in kinds:
            package = _PACKAGES[kind]
            if importlib.util.find_spec(package) is None:
                raise UnavailableError(
                    f"scoring {kind}s needs the package {package}: pip install 'llmbind[media]'"
                )
        self.limits = limits or DecodeLimits()
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._all: list[_Worker] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all decoding processes."""
        with self._lock:
            for worker in self._all:
                worker.end()
            self._all.clear()

    def read_clip(self, path: Path) -> Clip:
        """Decode a clip.

        Raises:
            InputDataError: It is none, has no frame, is truncated, or costs more than the limits.
        """
        head, content = self._ask(path, "video")
        shape = (len(head["indices"]), head["height"], head["width"], 3)
        frames = np.frombuffer(content, dtype=np.uint8).reshape(shape)
        return Clip(frames=frames, indices=tuple(head["indices"]), count=head["count"])

    def read_sound(self, path: Path) -> Sound:
        """Decode a sound.

        Raises:
            InputDataError: It is none, is empty or truncated, or costs more than the limits.
        """
        head, content = self._ask(path, "sound")
        samples = np.frombuffer(content, dtype=np.float32)
        shape = (head["samples"], head["channels"])
        return Sound(
            samples=np.ascontiguousarray(samples.reshape(shape).T),
            sample_rate_hz=head["sample_rate_hz"],
        )

    def _ask(self, path: Path, kind: Kind) -> tuple[dict[str, Any], bytearray]:
        if not path.is_file():  # a pipe or device would block or never end
            raise InputDataError(f"{path}: no such file")
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self.limits)
            with self._lock:
                self._all.append(worker)
        try:
            head, content = worker.ask(path, kind)
        except (OSError, EOFError, struct.error) as error:
            worker.end()
            reason = worker.last_words()
            raise InputDataError(f"{path}: cannot be read as a {kind}: {reason}") from error
        self._idle.put(worker)
        if "error" in head:
            raise InputDataError(f"{path}: cannot be read as a {kind}: {head['error']}")
        return head, content


class _Worker:
    """One decoding process, started at its first file."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits = limits
        self.timed_out = False
        # -P: the folder of this package holds names that other packages might look for.
        command = [sys.executable, "-P", str(Path(media_decode_worker.__file__))]
        command.append(json.dumps(asdict(limits)))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(  # noqa: S603  our own file
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def ask(self, path: Path, kind: Kind) -> tuple[dict[str, Any], bytearray]:
        """Send one request and read the reply, for no longer than the limit."""
        timer = threading.Timer(self.limits.timeout_s, self._kill)
        timer.start()
        try:
            sender, receiver = _pipes(self.process)
            request = {"path": os.path.abspath(path), "kind": kind}  # noqa: PTH100  bytes stay
            sender.write(json.dumps(request).encode() + b"\n")
            sender.flush()
            (length,) = _HEAD.unpack(_exactly(receiver, _HEAD.size))
            head: dict[str, Any] = json.loads(_exactly(receiver, length))
            return head, _exactly(receiver, _size(head))
        finally:
            timer.cancel()

    def last_words(self) -> str:
        """Say why the process ended."""
        if self.timed_out:
            return f"took longer than {self.limits.timeout_s:g} s"
        code = self.process.returncode
        return (
            f"its decoder ended with {f'signal {-code}' if code and code < 0 else f'code {code}'}"
        )

    def end(self) -> None:
        """End the process and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in _pipes(self.process):
            pipe.close()

    def _kill(self) -> None:
        self.timed_out = True
        self.process.kill()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise OSError("the decoding process has no pipes")
    return process.stdin, process.stdout


def _size(head: dict[str, Any]) -> int:
    if "indices" in head:
        return int(len(head["indices"]) * head["height"] * head["width"] * 3)
    return int(head["samples"] * head["channels"] * 4) if "samples" in head else 0


def _exactly(stream: IO[bytes], length: int) -> bytearray:
    content = bytearray(length)
    view = memoryview(content)
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        view = view[count:]
    return content
