"""The drawings that the judge learns from: other artists' pictures of the same things.

None of them is the style that the generator learns from (Noto). Every package is pinned by version
and hash; none of its drawings is shipped, they serve to measure.

| style | package | licence |
|---|---|---|
| twemoji | @iconify-json/twemoji | CC-BY-4.0 |
| openmoji | @iconify-json/openmoji | CC-BY-SA-4.0 |
| emojione | @iconify-json/emojione (its second edition) | CC-BY-4.0 |
| emojione-v1 | @iconify-json/emojione-v1 | CC-BY-SA-4.0 |
| fluent-emoji | @iconify-json/fluent-emoji | MIT |
| fxemoji | @iconify-json/fxemoji | Apache-2.0 |
| fluent | @lobehub/fluent-emoji-3d, which ``fetch.py`` brings | MIT |
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import fetch
import numpy as np
import render
from fetch import Package
from PIL import Image

from llmbind_cli.console import console
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World

SIZE_PX = 128
_KEPT = ("icons.json", "chars.json", "info.json")

PACKAGES = (
    Package(
        folder="twemoji",
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha512="uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        licence="CC-BY-4.0",
        wanted=_KEPT,
    ),
    Package(
        folder="openmoji",
        name="@iconify-json/openmoji",
        version="1.2.29",
        sha512="vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        licence="CC-BY-SA-4.0",
        wanted=_KEPT,
    ),
    Package(
        folder="emojione",
        name="@iconify-json/emojione",
        version="1.2.3",
        sha512="T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        licence="CC-BY-4.0",
        wanted=_KEPT,
    ),
    Package(
        folder="emojione-v1",
        name="@iconify-json/emojione-v1",
        version="1.2.3",
        sha512="UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
        licence="CC-BY-SA-4.0",
        wanted=_KEPT,
    ),
    Package(
        folder="fluent-emoji",
        name="@iconify-json/fluent-emoji",
        version="1.2.7",
        sha512="D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        licence="MIT",
        wanted=_KEPT,
    ),
    Package(
        folder="fxemoji",
        name="@iconify-json/fxemoji",
        version="1.2.2",
        sha512="UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        licence="Apache-2.0",
        wanted=_KEPT,
    ),
)

STYLES = (*(package.folder for package in PACKAGES), "fluent")


def fetch_styles(source: Path) -> None:
    """Fetch the drawings that are not in ``source`` yet."""
    source.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        target = source / package.folder
        if not fetch.is_there(package, target):
            archive = source / f"{package.folder}.tgz"
            fetch.download(package, archive)
            fetch.unpack(package, archive, target)
            archive.unlink()
        console.log(f"{package.name} {package.version} ({package.licence}): {target}")


def names_of(source: Path) -> dict[str, set[str]]:
    """Return what packages call each code point, lower-case letters and digits alone.

    Four of the packages list their drawings by name only; the names are those of the Unicode
    character or of its short description, which other packages tell.
    """
    names: dict[str, set[str]] = {}
    for folder in ("noto", "twemoji", "openmoji"):
        listed = json.loads((source / folder / "chars.json").read_text(encoding="utf-8"))
        for code, name in listed.items():
            names.setdefault(render.without_variant(code), set()).add(_letters(name))
    for entry in json.loads((source / "names" / "emoji.json").read_text(encoding="utf-8")):
        found = names.setdefault(render.without_variant(entry["unified"]), set())
        found.add(_letters(entry["name"] or ""))
        found.update(map(_letters, entry["short_names"]))
    return names


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def draw_vectors(
    folder: Path, codes: list[str], names: dict[str, set[str]]
) -> dict[str, np.ndarray]:
    """Draw the code points that a folder of vector drawings has.

    Args:
        folder: Folder of an iconify package.
        codes: Code points as the world writes them.
        names: What `names_of` returned.

    Returns:
        [128, 128, 4] uint8 RGBA for each code point that is there.
    """
    import resvg_py

    sheet = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    listed = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    by_code = {render.without_variant(code): name for code, name in listed.items()}
    by_name = {_letters(name): name for name in (*sheet["icons"], *sheet.get("aliases", {}))}
    if not by_code:
        for code in codes:
            if known := sorted(names.get(code, set()) & by_name.keys()):
                by_code[code] = by_name[known[0]]
    drawn: dict[str, np.ndarray] = {}
    for code in codes:
        name = by_code.get(code)
        if name is None:
            continue
        icon = sheet["icons"].get(name)
        if icon is None:
            icon = sheet["icons"].get(sheet.get("aliases", {}).get(name, {}).get("parent"))
        if icon is None:
            continue
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", sheet.get("width", 16))
        height = icon.get("height", sheet.get("height", 16))
        drawing = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{SIZE_PX}" height="{SIZE_PX}">'
            f"{icon['body']}</svg>"
        )
        png = resvg_py.svg_to_bytes(svg_string=drawing, width=SIZE_PX, height=SIZE_PX)
        with Image.open(io.BytesIO(bytes(png))) as picture:
            square = Image.new("RGBA", (SIZE_PX, SIZE_PX))
            square.paste(picture.convert("RGBA"), (0, (SIZE_PX - picture.height) // 2))
        pixels = np.asarray(square, np.uint8)
        if pixels[..., 3].any():
            drawn[code] = pixels
    return drawn


def load_styles(source: Path, sheets: Path, world: World) -> dict[str, Sprites]:
    """Return the sprites of every style, drawn at first use.

    Args:
        source: The folder that `fetch_styles` and ``fetch.py`` filled.
        sheets: Folder for the drawn sheets, one file a style.
        world: Whose things are drawn.
    """
    sheets.mkdir(parents=True, exist_ok=True)
    wanted = [code for thing in world for code in thing.codes]
    styles: dict[str, Sprites] = {}
    for style in STYLES:
        path = sheets / f"{style}.npz"
        if not path.exists():
            if style == "fluent":
                ways = render.fluent(source, SIZE_PX)
                drawn = {code: np.asarray(ways[code]()) for code in wanted if code in ways}
            else:
                drawn = draw_vectors(source / style, wanted, names_of(source))
            render.save(path, drawn)
        styles[style] = Sprites.load(path)
        console.log(f"{style}: {len(styles[style].codes)} of {len(set(wanted))} drawings")
    return styles
