"""Backgrounds drawn by code: plain colours, and simple places with a horizon."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.scenes.colours import COLOURS, from_oklab
from llmbind_cli.data.scenes.graph import Background

Rgb = tuple[int, int, int]
Picture = NDArray[np.float32]

_CLOUDS = ((0.2, 0.16, 0.13), (0.32, 0.2, 0.1), (0.76, 0.3, 0.14), (0.88, 0.26, 0.09))
"""x, y and radius."""

_STARS = 26


def draw_background(background: Background, shade: float, size_px: int) -> Picture:
    """Draw what lies behind the things.

    Args:
        background: What to draw.
        shade: 0 to 1, varies tones and the height of the horizon.
        size_px: Width and height.

    Returns:
        [size_px, size_px, 3] float32, 0 to 255.
    """
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
    if background.kind == "white":
        return np.full((size_px, size_px, 3), 255, np.float32)
    if background.colour is not None:
        colour = _plain(background.colour, shade)
        return np.broadcast_to(colour, (size_px, size_px, 3)).astype(np.float32)
    horizon = 0.62 + 0.16 * (shade - 0.5)
    return _PLACES[background.kind](x, y, horizon, shade)


def _sky(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    sky = _gradient(y, (96, 176, 240), (206, 234, 252))
    for cx, cy, radius in _CLOUDS:
        distance = np.hypot((x - (cx + shade) % 1.0) / 1.7, y - cy) - radius * 0.7
        cover = np.clip(-distance / 0.03, 0, 1)[..., None].astype(np.float32)
        sky = sky + (np.float32(250) - sky) * cover * np.float32(0.85)
    return sky


def _night(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    sky = _gradient(y, (14, 18, 52), (46, 52, 110))
    places = np.random.default_rng(int(shade * 1000)).random((_STARS, 3))
    for cx, cy, size in places:
        distance = np.hypot(x - cx, y - cy) - (0.004 + 0.008 * size)
        cover = np.clip(1 - distance / 0.008, 0, 1)[..., None].astype(np.float32)
        sky = sky + (np.float32(245) - sky) * cover
    return sky


def _sunset(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    return _gradient(y, (120, 72, 152), (250, 150, 84), (255, 214, 120))


def _grass(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    hill = y - horizon - 0.03 * np.sin(6.3 * (x + shade))
    meadow = _gradient(y, (118, 196, 84), (70, 156, 62))
    return _below(_gradient(y, (150, 208, 246), (222, 242, 252)), meadow, hill)


def _snow(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    hill = y - horizon - 0.03 * np.sin(5.2 * (x - shade))
    ground = _gradient(y, (244, 249, 255), (214, 228, 244))
    return _below(_gradient(y, (142, 178, 214), (200, 220, 238)), ground, hill)


def _sand(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    dune = y - horizon - 0.025 * np.sin(5 * (x + 0.7 * shade))
    ground = _gradient(y, (250, 222, 160), (230, 184, 110))
    return _below(_gradient(y, (140, 208, 244), (226, 244, 252)), ground, dune)


def _sea(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    water = _gradient(y, (64, 164, 222), (28, 104, 184))
    crest = np.sin(2 * np.pi * (y * 9 + 0.35 * np.sin(9 * x + 6 * shade)))
    water = water + np.where(crest > 0.86, np.float32(42), np.float32(0))[..., None]
    sky = _gradient(y, (160, 214, 248), (228, 244, 252))
    return _below(sky, np.minimum(water, 255), y - horizon)


def _street(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    sky = _gradient(y, (176, 214, 240), (230, 240, 246))
    road = _gradient(y, (128, 130, 136), (92, 94, 100))
    dash = (np.abs(y - (horizon + 1) / 2) < 0.018) & ((x + shade) * 5 % 1 < 0.55)
    road = np.where(dash[..., None], np.float32(240), road)
    kerb = np.full_like(road, 196)
    return _below(_below(sky, kerb, y - horizon), road, y - horizon - 0.035)


def _room(x: Picture, y: Picture, horizon: float, shade: float) -> Picture:
    tone = np.array([236 - 26 * shade, 220, 196 + 30 * shade], np.float32)
    wall = np.broadcast_to(tone, (*y.shape, 3)).astype(np.float32)
    skirting = np.full_like(wall, 250)
    floor = _gradient(y, (198, 146, 96), (164, 112, 68))
    low = y - horizon - 0.06
    return _below(_below(wall, skirting, low + 0.03), floor, low)


_PLACES = {
    "sky": _sky,
    "night": _night,
    "sunset": _sunset,
    "grass": _grass,
    "snow": _snow,
    "sand": _sand,
    "sea": _sea,
    "street": _street,
    "room": _room,
}
"""How each place is drawn, from x and y of every pixel, the horizon's y and the shade."""


def _plain(name: str, shade: float) -> NDArray[np.float32]:
    """Return a plain colour, from its pale to its full tone."""
    colour = COLOURS[name]
    if colour.chroma:
        pale = 1 - 0.65 * (1 - shade)
        lightness = colour.lightness + (0.93 - colour.lightness) * (1 - pale)
    else:
        pale, lightness = 0.0, colour.lightness - 0.1 + 0.1 * shade
    hue = np.radians(colour.hue)
    chroma = colour.chroma * pale * 0.9
    lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    return np.clip(from_oklab(lab), 0, 1) * np.float32(255)


def _gradient(y: Picture, *stops: Rgb) -> Picture:
    """Blend colours from top to bottom."""
    at = np.linspace(0, 1, len(stops))
    channels = [np.interp(y, at, [stop[channel] for stop in stops]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _below(above: Picture, below: Picture, distance: Picture) -> Picture:
    """Lay one picture over another where a signed distance is positive, with a soft edge."""
    cover = np.clip(distance * len(distance) + 0.5, 0, 1)[..., None].astype(np.float32)
    laid: Picture = (above + (below - above) * cover).astype(np.float32)
    return laid
