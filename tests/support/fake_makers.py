"""Generators that make small files from prompt and seed at once, installed as a plug-in.

`install` writes a distribution of this module into a folder; on `PYTHONPATH`, a process of
``llmbind`` finds its entry points ``fake-image``, ``fake-edit``, ``fake-video``, ``fake-audio``.

The environment of that process steers them: ``FAKE_SLEEP_S`` is how long an item takes, and
``FAKE_LOG`` names a file that gets a line ``load TASK`` or ``make TASK PROMPT`` for what was done.
The prompt ``secret`` is withheld, also among others.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from pathlib import Path

from llmbind_cli.errors import PolicyError
from llmbind_cli.generators.base import GeneratedArtifact

SUFFIXES = {
    "image": (".png", "image/png"),
    "edit": (".png", "image/png"),
    "video": (".mp4", "video/mp4"),
    "audio": (".wav", "audio/wav"),
}
TASKS = tuple(SUFFIXES)
FLAGS = [word for task in TASKS for word in ("--generator", f"{task}=fake-{task}")]


def install(folder: Path) -> Path:
    """Put a distribution of this module into a folder; return the folder."""
    folder.mkdir(exist_ok=True)
    shutil.copy(__file__, folder / "fake_makers.py")
    about = folder / "fake_makers-1.0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-makers\nVersion: 1.0\n")
    lines = [f"fake-{task} = fake_makers:{task}" for task in TASKS]
    (about / "entry_points.txt").write_text("\n".join(["[llmbind.generators]", *lines, ""]))
    return folder


class Maker:
    """Makes files of one task."""

    batch_size = 2
    fingerprint = "1"

    def __init__(self, modality):
        self.modality = modality
        self.name = f"fake-{modality}"
        note(f"load {modality}")

    def generate(self, requests):
        return [self.make(request) for request in requests]

    def make(self, request):
        note(f"make {self.modality} {request.prompt}")
        time.sleep(float(os.environ.get("FAKE_SLEEP_S", "0")))
        if request.prompt == "secret":
            return PolicyError("withheld")
        suffix, media_type = SUFFIXES[self.modality]
        seen = hashlib.sha256(f"{self.modality} {request.prompt} {request.seed}".encode())
        if request.image is not None:
            seen.update(request.image.tobytes())
        payload = seen.hexdigest().encode() * 40
        if suffix == ".png":
            payload = picture(seen.digest())
        return GeneratedArtifact(payload=payload, media_type=media_type, suffix=suffix)


def picture(digest):
    """Return a PNG of 4 × 2 px with the colours of 24 bytes."""
    from PIL import Image

    stream = io.BytesIO()
    Image.frombytes("RGB", (4, 2), digest[:24]).save(stream, format="PNG")
    return stream.getvalue()


def note(text):
    if "FAKE_LOG" in os.environ:
        with Path(os.environ["FAKE_LOG"]).open("a") as log:
            log.write(f"{text}\n")


def image(**_settings):
    return Maker("image")


def edit(**_settings):
    return Maker("edit")


def video(**_settings):
    return Maker("video")


def audio(**_settings):
    return Maker("audio")
