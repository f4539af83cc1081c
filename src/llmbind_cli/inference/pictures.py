"""Pictures from disk, checked and in the frame that a viewer shows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from llmbind_cli.errors import InputDataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64 * 1024 * 1024
"""Largest picture that is decoded, in pixels."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is read. Pillow knows more, but hands some of those to programs such as Ghostscript."""

_SIXTEEN_BIT = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


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

    if not path.is_file():  # a pipe or device would block or never end
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
                return _as_rgb(ImageOps.exif_transpose(opened))
    except InputDataError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputDataError(f"{path}: cannot be read as a picture: {error}") from error


def _as_rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode in _SIXTEEN_BIT:
        # Converting by itself would cut every value off at 255.
        picture = picture.convert("I").point(lambda level: level * (1 / 257)).convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")
