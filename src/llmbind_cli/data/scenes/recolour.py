"""Give a drawn thing another colour and leave it the same drawing.

The largest region of one colour is found, and its OKLCh hue and chroma are replaced; shading,
highlights and the dark lines inside it stay as lightness differences around the new colour's own.
A thing that is white, grey or black as a whole takes the colour everywhere outside its outlines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmbind_cli.data.scenes.colours import COLOURS, from_oklab, to_oklab

_HUE_BINS = 36
_HUE_REACH = 32.0
"""Degrees on each side of a region's main hue that belong to it."""

_COLOURFUL_SHARE = 0.22
"""Share of the thing's area that must have a hue, so that the hue marks the region."""

_FAINT = 0.055
"""Chroma below which a thing counts as grey as a whole."""

_ENOUGH = 0.55
"""Share of the thing's colourful area that is to change; more hues join until it is reached."""

_CONTRAST = 0.8
"""How much of the lightness differences stays."""


def recolour(sprite: NDArray[np.uint8], colour: str) -> NDArray[np.uint8]:
    """Paint a sprite in a named colour.

    Args:
        sprite: [H, W, 4] uint8 RGBA, straight alpha.
        colour: A name in `COLOURS`.

    Returns:
        [H, W, 4] uint8 RGBA with the same alpha.

    Raises:
        KeyError: There is no such colour.
    """
    target = COLOURS[colour]
    lab = to_oklab(sprite[..., :3] / np.float32(255))
    alpha = (sprite[..., 3] / np.float32(255)).astype(np.float32)
    lightness = lab[..., 0]
    chroma = np.hypot(lab[..., 1], lab[..., 2]).astype(np.float32)
    body = _body(lab, alpha)
    weight = body * alpha
    if weight.sum() < 1e-3:
        return sprite
    middle = _median(lightness, weight)
    contrast = _CONTRAST if target.chroma else 0.6
    shaded = target.lightness + (lightness - middle) * contrast
    shaded = np.clip(shaded, 0.12, 0.985)
    typical = max(_median(chroma, weight), 1e-3)
    # A flat colour keeps its chroma; where the drawing is paler than usual, so is the new one.
    strength = np.clip(chroma / typical, 0.55, 1.15) if typical > 0.04 else np.ones_like(chroma)
    # Toward white and black every colour fades.
    fading = np.clip((0.985 - shaded) / (0.985 - target.lightness + 1e-3), 0, 1) ** 0.7
    new_chroma = target.chroma * strength * np.clip(fading, 0, 1)
    hue = np.radians(target.hue)
    new = _shown(shaded, new_chroma, float(hue))
    old = sprite[..., :3] / np.float32(255)
    mixed = old + (new - old) * body[..., None]
    rgb = np.clip(np.rint(mixed * 255), 0, 255).astype(np.uint8)
    return np.concatenate([rgb, sprite[..., 3:]], axis=-1)


def _body(lab: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weigh each pixel by how much it belongs to the region whose colour names the thing."""
    lightness, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    # Dark lines, pupils and the like stay; what counts as dark depends on the whole drawing.
    low = 0.24 if _median(lightness, alpha) > 0.5 else 0.12
    lit = _ramp(lightness, low, low + 0.12)
    area = float((alpha * lit).sum())
    colourful = _ramp(chroma, 0.025, 0.05) * lit
    share = float((alpha * colourful).sum())
    whole = float(alpha.sum())
    if area < 0.25 * whole:
        return np.ones_like(alpha)
    faint = share > 0 and _median(chroma, alpha * colourful) < _FAINT
    if share < _COLOURFUL_SHARE * whole or faint:
        return lit * (1 - _ramp(chroma, 0.08, 0.12))
    mass = alpha * colourful
    bins = (hue / (360 / _HUE_BINS)).astype(int) % _HUE_BINS
    histogram = np.bincount(bins.ravel(), weights=mass.ravel(), minlength=_HUE_BINS)
    smooth = histogram + 0.5 * (np.roll(histogram, 1) + np.roll(histogram, -1))
    chosen = np.zeros_like(alpha)
    for _ in range(4):
        peak = (int(smooth.argmax()) + 0.5) * (360 / _HUE_BINS)
        distance = np.abs((hue - peak + 180) % 360 - 180)
        chosen = np.maximum(chosen, (1 - _ramp(distance, _HUE_REACH, _HUE_REACH + 12)) * colourful)
        if float((alpha * chosen).sum()) > _ENOUGH * share:
            break
        away = np.abs(((np.arange(_HUE_BINS) + 0.5) * 10 - peak + 180) % 360 - 180)
        smooth[away < _HUE_REACH + 12] = 0
    return chosen


def _shown(
    lightness: NDArray[np.float32], chroma: NDArray[np.float32], hue: float
) -> NDArray[np.float32]:
    """Return sRGB, with less chroma where the screen has no such colour."""
    for _ in range(4):
        lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
        rgb = from_oklab(lab)
        outside = (rgb.min(axis=-1) < -0.02) | (rgb.max(axis=-1) > 1.02)
        if not outside.any():
            break
        chroma = np.where(outside, chroma * 0.85, chroma)
    shown: NDArray[np.float32] = np.clip(rgb, 0, 1).astype(np.float32)
    return shown


def _ramp(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((values - low) / (high - low), 0, 1)
    risen: NDArray[np.float32] = (t * t * (3 - 2 * t)).astype(np.float32)
    return risen


def _median(values: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    """Weighted median."""
    order = np.argsort(values, axis=None)
    total = np.cumsum(weight.ravel()[order])
    return float(values.ravel()[order][np.searchsorted(total, total[-1] / 2)])
