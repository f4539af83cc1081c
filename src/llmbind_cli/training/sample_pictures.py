"""The first samples as pictures to look at: masks laid over the photo, the dialogue beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.data.sample import IGNORED, Sample
from llmbind_cli.weights.atomic import storage_error, write_atomically
from llmbind_cli.weights.file_names import file_stem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TINTS = (
    (230, 40, 40),
    (40, 110, 240),
    (30, 170, 60),
    (240, 160, 20),
    (170, 60, 200),
    (0, 170, 180),
)
"""Colour of the first mask, the second, and so on."""

_STRENGTH = 0.55


def write_samples(folder: Path, samples: Sequence[tuple[str, Sample]]) -> list[Path]:
    """Write each sample as ``SOURCE-NUMBER.png`` and ``SOURCE-NUMBER.txt``.

    Args:
        folder: Made where it is not there.
        samples: Name of the source, and the sample.

    Returns:
        The pictures.

    Raises:
        InputDataError: A picture or a mask cannot be decoded, or they are of different sizes.
        OutputError: The folder cannot be written.
        StorageError: The disk is full or failing.
    """
    from PIL import Image

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    written = []
    numbers: dict[str, int] = {}
    for source, sample in samples:
        numbers[source] = numbers.get(source, 0) + 1
        path = folder / f"{file_stem(source)}-{numbers[source]}.png"
        image = Image.fromarray(overlay(sample))
        write_atomically(path, lambda file, image=image: image.save(file, format="PNG"))  # type: ignore[misc]
        text = sample_text(source, sample).encode()
        write_atomically(path.with_suffix(".txt"), lambda file, text=text: file.write(text))  # type: ignore[misc]
        written.append(path)
    return written


def overlay(sample: Sample) -> NDArray[np.uint8]:
    """Lay the masks of a sample over its first picture, each in a tint; what is ignored is grey.

    Returns:
        [H, W, 3] uint8.

    Raises:
        InputDataError: Something cannot be decoded, or the sizes differ.
    """
    import numpy as np

    picture = np.asarray(sample.pictures[0].load())
    sample.check_size(*picture.shape[:2])
    shown = picture.astype(np.float32)
    for number, labels in enumerate(sample.decode_labels()):
        tint = np.array(TINTS[number % len(TINTS)], np.float32)
        shown[labels == 1] += (tint - shown[labels == 1]) * _STRENGTH
        shown[labels == IGNORED] = shown[labels == IGNORED].mean(axis=-1, keepdims=True) * 0.5
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def sample_text(source: str, sample: Sample) -> str:
    """Return a sample's dialogue, with what each mask is tied to and how many pixels it has."""
    lines = [f"source: {source}", f"sample: {sample.id}", f"task: {sample.source_task}"]
    lines += [f"picture: {picture.key}" for picture in sample.pictures]
    lines += ["", *(f"{turn.role.upper()}: {turn.text}" for turn in sample.turns)]
    if sample.segments:
        labels = sample.decode_labels()
        lines += ["", "masks, in the order of their tokens:"]
        for number, (segment, label) in enumerate(zip(sample.segments, labels, strict=True)):
            tint = TINTS[number % len(TINTS)]
            ignored = int((label == IGNORED).sum())
            left_out = f", {ignored:,} px ignored" if ignored else ""
            lines.append(
                f"  {number + 1}. {segment.phrase!r}: {int((label == 1).sum()):,} px{left_out}, "
                f"tint {tint}"
            )
    return "\n".join(lines) + "\n"
