"""The named colours of the world, and which of them a colour is.

Colours are measured in OKLCh (Ottosson 2020, https://bottosson.github.io/posts/oklab/): lightness
0 to 1, chroma 0 to about 0.33, hue in degrees. Equal steps look about equally large there, which
makes a hue range mean what people see.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class NamedColour:
    """A colour that can be asked for.

    Attributes:
        name: Its name.
        lightness: OKLCh lightness of its typical shade.
        chroma: OKLCh chroma of its typical shade; 0 for black, white and grey.
        hue: OKLCh hue of its typical shade, degrees.
        words: What people call it, the name first; shades that are asked for count as it.
    """

    name: str
    lightness: float
    chroma: float
    hue: float
    words: tuple[str, ...]


_TABLE = (
    NamedColour("red", 0.61, 0.215, 27, ("red", "scarlet", "crimson", "bright red")),
    NamedColour("orange", 0.74, 0.17, 58, ("orange", "bright orange")),
    NamedColour("yellow", 0.88, 0.175, 98, ("yellow", "golden yellow", "lemon yellow")),
    NamedColour("green", 0.66, 0.17, 145, ("green", "bright green", "emerald green")),
    NamedColour("blue", 0.58, 0.18, 257, ("blue", "bright blue", "royal blue")),
    NamedColour("purple", 0.55, 0.2, 305, ("purple", "violet", "lilac")),
    NamedColour("pink", 0.77, 0.14, 355, ("pink", "rose-coloured", "light pink")),
    NamedColour("brown", 0.47, 0.085, 52, ("brown", "dark brown", "chocolate brown")),
    NamedColour("black", 0.29, 0.0, 0, ("black", "jet black")),
    NamedColour("white", 0.93, 0.0, 0, ("white", "snow white")),
    NamedColour("grey", 0.65, 0.0, 0, ("grey", "gray", "silver grey")),
)

COLOURS = MappingProxyType({colour.name: colour for colour in _TABLE})
"""All named colours by name."""

NAMES: tuple[str, ...] = tuple(COLOURS)
"""Their names, in the order that `classify` counts in."""

COLOUR_WORDS = MappingProxyType({word: c.name for c in _TABLE for word in c.words})
"""What people call a colour → its name."""

HUED: tuple[str, ...] = tuple(name for name in NAMES if COLOURS[name].chroma > 0)
"""The colours that have a hue."""

_RED, _ORANGE, _YELLOW, _GREEN, _BLUE, _PURPLE, _PINK, _BROWN, _BLACK, _WHITE, _GREY = range(
    len(NAMES)
)
_GREYISH = 0.04
"""Chroma below which nobody names a hue."""


def to_oklab(rgb: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert sRGB to OKLab.

    Args:
        rgb: [..., 3], gamma-encoded sRGB, 0 to 1.

    Returns:
        [..., 3] float32: lightness, a, b.
    """
    import numpy as np

    srgb = np.asarray(rgb, np.float32)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(linear @ np.asarray(_RGB_TO_LMS, np.float32).T)
    return (lms @ np.asarray(_LMS_TO_LAB, np.float32).T).astype(np.float32)


def from_oklab(lab: NDArray[np.floating]) -> NDArray[np.float32]:
    """Convert OKLab to sRGB.

    Args:
        lab: [..., 3]: lightness, a, b.

    Returns:
        [..., 3] float32, gamma-encoded. Values outside 0 to 1 are colours a screen cannot show.
    """
    import numpy as np

    lms = np.asarray(lab, np.float32) @ np.linalg.inv(np.asarray(_LMS_TO_LAB, np.float32)).T
    linear = lms**3 @ np.linalg.inv(np.asarray(_RGB_TO_LMS, np.float32)).T
    bright = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, bright).astype(np.float32)


def classify(lab: NDArray[np.floating]) -> NDArray[np.int64]:
    """Name colours.

    Args:
        lab: [..., 3] OKLab.

    Returns:
        [...] index into `NAMES` for each colour.
    """
    import numpy as np

    lightness, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    chroma = np.hypot(a, b)
    hue = np.degrees(np.arctan2(b, a)) % 360
    warm = (hue >= 20) & (hue < 105)
    dull = (lightness < 0.62) | ((lightness < 0.72) & (chroma < 0.115))
    brownish = dull & ((hue > 40) | (chroma < 0.12))
    pinkish = (hue >= 330) | (hue < 12) | ((hue < 36) & (lightness > 0.7))
    return np.select(
        [
            (chroma < _GREYISH) & (lightness < 0.42),
            lightness < 0.25,
            (chroma < _GREYISH) & (lightness > 0.86),
            chroma < _GREYISH,
            warm & (hue > 55) & (lightness > 0.86) & (chroma < 0.075),
            warm & (hue < 62) & (lightness > 0.8) & (chroma < 0.095),
            warm & brownish,
            pinkish,
            hue < 40,
            hue < 78,
            hue < 116,
            hue < 185,
            hue < 282,
        ],
        [
            _BLACK,
            _BLACK,
            _WHITE,
            _GREY,
            _WHITE,
            _PINK,
            _BROWN,
            _PINK,
            _RED,
            _ORANGE,
            _YELLOW,
            _GREEN,
            _BLUE,
        ],
        default=_PURPLE,
    )


_RGB_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_LMS_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
