"""Pictures on the disk: found and checked first, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmbind_cli.errors import InputDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

MAX_PIXELS = 64 * 1024 * 1024
"""Largest picture that is decoded, in pixels."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is read. Pillow knows more, but hands some of those to programs such as Ghostscript."""

SHOWN = 10
"""Missing files that a message lists."""

_ONE_CHANNEL = frozenset({"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap height and width."""

_ORIENTATION = 0x0112
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(?:_\d+)?\.(?:jpg|jpeg|png)")


class PictureSource(Protocol):
    """A picture that can be decoded."""

    @property
    def key(self) -> str:
        """Name that is the same wherever the same picture is used."""
        ...

    def files(self) -> tuple[PictureFile, ...]:
        """Return the photos that it is made of and that have a name of their own."""
        ...

    def load(self) -> Image:
        """Decode it: mode ``RGB``, in the frame the viewer sees."""
        ...

    def sha256(self) -> str:
        """Return the hash of its content."""
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture on the disk.

    Attributes:
        path: Where it lies.
        key: Its name over all data sets that use it; see :func:`picture_key`.
    """

    path: Path
    key: str

    def files(self) -> tuple[PictureFile, ...]:
        """Return nothing: the file is the picture."""
        return ()

    def load(self) -> Image:
        """Decode the file; see :func:`read_picture`.

        Raises:
            InputDataError: It is missing, no picture, damaged or too large.
        """
        return read_picture(self.path)

    def sha256(self) -> str:
        """Return the hash of the file.

        Raises:
            InputDataError: It cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputDataError(f"{self.path}: cannot be read: {error.strerror}") from None


def picture_key(dataset: str, name: str) -> str:
    """Name a picture so that data sets which share it agree.

    COCO's photos are in refCOCO, COCO-Stuff, PACO and LLaVA-Instruct too, under names that all end
    in the same 12 digits; they become ``coco/ID``. Any other one is ``dataset/name``.

    Args:
        dataset: Collection that the picture comes from.
        name: Path within that collection.
    """
    match = _COCO_NAME.fullmatch(name.rpartition("/")[2])
    return f"coco/{int(match[1])}" if match else f"{dataset}/{name}"


def is_there(path: Path) -> bool:
    """Say whether a path leads to a file.

    One that no file can have, such as a picture pasted in as text, is not there either.
    """
    try:
        return path.is_file()
    except OSError:  # a name too long, or a folder that may not be entered
        return False


def missing_pictures(pictures: Iterable[PictureFile]) -> list[PictureFile]:
    """Return those whose file is not there."""
    return [picture for picture in pictures if not is_there(picture.path)]


def missing_message(name: str, missing: Sequence[PictureFile], total: int) -> str:
    """Word that pictures are missing, with the first of them.

    Args:
        name: Data source.
        missing: At least one.
        total: How many the source names.
    """
    shown = "".join(f"\n  {picture.path}" for picture in missing[:SHOWN])
    more = f"\n  and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
    return (
        f"{name}: {len(missing):,} of {total:,} pictures are missing; fetch them, or leave out "
        f"what speaks of them with skip_missing = true:{shown}{more}"
    )


def picture_size(path: Path) -> tuple[int, int]:
    """Return height and width in the frame the viewer sees, without decoding the picture.

    Raises:
        InputDataError: It is missing, no picture, or too large.
    """
    with opened_picture(path) as opened:
        width, height = opened.size
        turned = opened.getexif().get(_ORIENTATION) in _TURNED
        return (width, height) if turned else (height, width)


def read_picture(path: Path) -> Image:
    """Read a picture as RGB in the frame the viewer sees.

    The content decides about the type, not the name. A picture is turned as its EXIF says, 16-bit
    grey is scaled to 8 bits, transparent parts are laid on white, and of an animation the first
    frame counts.

    Args:
        path: A file of one of :data:`FORMATS`.

    Returns:
        Mode ``RGB``, decoded in full.

    Raises:
        InputDataError: It is missing, no picture, damaged, or larger than :data:`MAX_PIXELS`,
            which is looked at before anything is decoded.
    """
    from PIL import Image, ImageOps

    with opened_picture(path) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in _SIXTEEN_BIT:
            picture = _eight_bit(picture)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")


def _eight_bit(picture: Image) -> Image:
    """Scale 16-bit grey to 8 bits; what is seen through, by its level, becomes an alpha channel."""
    from PIL import Image

    transparent = picture.info.pop("transparency", None)
    levels = picture.convert("I")
    # Converting by itself would cut every value off at 255.
    grey = levels.point(lambda level: level * (1 / 257)).convert("L")
    if transparent is None:
        return grey
    import numpy as np

    seen = np.where(np.asarray(levels) == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", (grey, Image.fromarray(seen)))


def read_labels(path: Path) -> NDArray[np.integer[Any]]:
    """Read the numbers of a label picture; of a palette the indices count.

    Returns:
        Integers, [H, W].

    Raises:
        InputDataError: It is missing, no picture, damaged, too large, or has colours.
    """
    import numpy as np

    with opened_picture(path) as opened:
        if opened.mode not in _ONE_CHANNEL:
            raise InputDataError(f"{path}: labels need one channel, and this is {opened.mode}")
        return np.asarray(opened)


@contextmanager
def opened_picture(path: Path, *, kind: str = "picture") -> Iterator[Image]:
    """Open a picture; whatever a decoder raises becomes an error that names the file.

    Args:
        path: A file of one of :data:`FORMATS`.
        kind: What messages call it.

    Yields:
        The picture as it stands in the file, not decoded yet.

    Raises:
        InputDataError: It is missing, no picture, damaged, or larger than :data:`MAX_PIXELS`.
    """
    from PIL import Image

    if not is_there(path):  # a pipe or device would block or never end
        raise InputDataError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, which are measured here, and of odd metadata.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise InputDataError(
                        f"{path}: {width} × {height} px is more than the {MAX_PIXELS} pixels that "
                        f"are read; scale it down"
                    )
                yield opened
    except InputDataError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputDataError(f"{path}: cannot be read as a {kind}: {error}") from error
