"""A picture as the bytes that make a terminal show it.

Four ways, from best to plainest: the graphics protocol of kitty, the inline images of iTerm2,
sixel, and half-block characters in 24-bit colour, which every modern terminal shows.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

KITTY_CHUNK = 4096
"""Most base64 characters in one escape of the kitty protocol."""

_ESC = "\x1b"
_SIXEL_COLOURS = 255
_SIXEL_BAND_PX = 6
_UPPER_HALF = "▀"


def kitty(png: bytes, *, rows: int) -> str:
    """Return the escapes of the kitty graphics protocol that show a PNG.

    https://sw.kovidgoyal.net/kitty/graphics-protocol/

    Args:
        png: A whole PNG file, sent as it is.
        rows: Height on the screen, in character cells; the width follows.
    """
    text = base64.standard_b64encode(png).decode("ascii")
    chunks = [text[start : start + KITTY_CHUNK] for start in range(0, len(text), KITTY_CHUNK)]
    escapes = []
    for index, chunk in enumerate(chunks):
        # q=2: the terminal answers nothing, which nobody would read.
        control = f"a=T,f=100,q=2,r={rows}," if index == 0 else ""
        more = int(index + 1 < len(chunks))
        escapes.append(f"{_ESC}_G{control}m={more};{chunk}{_ESC}\\")
    return "".join(escapes)


def iterm2(file: bytes, *, rows: int) -> str:
    """Return the escape of iTerm2's inline images, for any file type that it shows.

    https://iterm2.com/documentation-images.html

    Args:
        file: A whole picture file.
        rows: Height on the screen, in character cells; the width follows.
    """
    text = base64.standard_b64encode(file).decode("ascii")
    return (
        f"{_ESC}]1337;File=inline=1;size={len(file)};height={rows};preserveAspectRatio=1:{text}\x07"
    )


def sixel(picture: Image) -> str:
    """Return a picture as sixels: bands of six rows, each drawn once a colour.

    VT330/VT340 Programmer Reference Manual, chapter 14.

    Args:
        picture: RGB; at most 255 colours survive.
    """
    from PIL import Image

    indexed = picture.quantize(_SIXEL_COLOURS, dither=Image.Dither.FLOYDSTEINBERG)
    width, height = indexed.size
    palette = indexed.getpalette() or []
    pixels = indexed.tobytes()
    used = sorted(set(pixels))
    parts = [f'{_ESC}P0;1;0q"1;1;{width};{height}']
    for colour in used:
        red, green, blue = (round(v * 100 / 255) for v in palette[3 * colour : 3 * colour + 3])
        parts.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, _SIXEL_BAND_PX):
        rows = [
            pixels[row * width : (row + 1) * width]
            for row in range(top, min(top + _SIXEL_BAND_PX, height))
        ]
        lines = [f"#{colour}{_sixel_line(rows, colour)}" for colour in sorted(set(b"".join(rows)))]
        parts.append("$".join(lines) + "-")
    parts.append(f"{_ESC}\\")
    return "".join(parts)


def half_blocks(picture: Image) -> str:
    """Return a picture as lines of half blocks, each character two pixels one above the other.

    Args:
        picture: RGB, as many pixels wide as the text is to have columns. Of an odd height the
            last line has an upper half only.
    """
    width, height = picture.size
    pixels = picture.tobytes()

    def colour(x: int, y: int) -> str:
        start = 3 * (y * width + x)
        return ";".join(str(value) for value in pixels[start : start + 3])

    lines = []
    for y in range(0, height, 2):
        cells = []
        for x in range(width):
            below = f"{_ESC}[48;2;{colour(x, y + 1)}m" if y + 1 < height else ""
            cells.append(f"{_ESC}[38;2;{colour(x, y)}m{below}{_UPPER_HALF}")
        lines.append("".join(cells) + f"{_ESC}[0m")
    return "\n".join(lines)


def png_bytes(picture: Image) -> bytes:
    """Return a picture as a PNG file."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _sixel_line(rows: list[bytes], colour: int) -> str:
    """Return one colour's sixels of a band, runs shortened, blanks at the end left out."""
    masks = [0] * len(rows[0])
    for bit, row in enumerate(rows):
        for x, value in enumerate(row):
            if value == colour:
                masks[x] |= 1 << bit
    while masks and not masks[-1]:
        masks.pop()
    parts = []
    start = 0
    while start < len(masks):
        end = start
        while end < len(masks) and masks[end] == masks[start]:
            end += 1
        sign, length = chr(63 + masks[start]), end - start
        parts.append(f"!{length}{sign}" if length > 3 else sign * length)
        start = end
    return "".join(parts)
