"""Draw every thing of the world into one sheet of sprites.

    pip install resvg-py        # only for the vector drawings
    python tools/embedded_generator/render.py SOURCE noto OUT.npz [--size 128]
    python tools/embedded_generator/render.py SOURCE fluent OUT.npz

SOURCE is the folder that ``fetch.py`` filled. ``noto`` (vector drawings) is what the generator
learns from; ``fluent`` (another artist's pictures of the same things) is for the judge that
measures it, and for nothing else. What is already in OUT.npz is kept, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from llmbind_cli.console import console
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import load_world
from llmbind_cli.weights.atomic import write_atomically

SAVE_EVERY = 400
DRAWING = 128  # side of a drawing's own coordinates, where its file names none


def without_variant(code: str) -> str:
    """Return a code point as the world writes it: lower case, no variation selector."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def noto(source: Path, size_px: int) -> dict[str, Callable[[], Image.Image]]:
    """Return a way to draw each vector drawing, by code point."""
    import resvg_py

    folder = source / "noto"
    sheet = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    icons, aliases = sheet["icons"], sheet.get("aliases", {})
    width, height = sheet.get("width", DRAWING), sheet.get("height", DRAWING)

    def draw(name: str) -> Image.Image:
        icon = icons.get(name) or icons[aliases[name]["parent"]]
        drawing = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {icon.get("width", width)} {icon.get("height", height)}" '
            f'width="{size_px}" height="{size_px}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=drawing, width=size_px, height=size_px)
        return Image.open(io.BytesIO(bytes(png)))

    names = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    return {without_variant(code): lambda name=name: draw(name) for code, name in names.items()}


def fluent(source: Path, size_px: int) -> dict[str, Callable[[], Image.Image]]:
    """Return a way to read each picture, by code point."""

    def read(path: Path) -> Image.Image:
        with Image.open(path) as picture:
            return picture.convert("RGBA").resize((size_px, size_px), Image.Resampling.LANCZOS)

    return {
        without_variant(path.stem): lambda path=path: read(path)
        for path in sorted((source / "fluent").iterdir())
        if re.fullmatch(r"[0-9a-f-]+", path.stem)
    }


STYLES = {"noto": noto, "fluent": fluent}


def save(path: Path, drawn: dict[str, np.ndarray]) -> None:
    """Write what is drawn so far."""
    codes = sorted(drawn)
    pictures = np.stack([drawn[code] for code in codes])
    write_atomically(
        path, lambda file: np.savez_compressed(file, codes=np.array(codes), pictures=pictures)
    )


def main() -> None:
    """Draw what is not drawn yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("style", choices=STYLES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=128, help="side of a sprite in pixels")
    arguments = parser.parse_args()
    drawn: dict[str, np.ndarray] = {}
    if arguments.out.exists():
        sheet = Sprites.load(arguments.out)
        if sheet.size_px == arguments.size:
            drawn = {code: sheet[code] for code in sheet.codes}
    ways = STYLES[arguments.style](arguments.source, arguments.size)
    wanted = [code for thing in load_world() for code in thing.codes if code not in drawn]
    missing = [code for code in wanted if code not in ways]
    console.log(f"{len(drawn)} drawn before, {len(wanted) - len(missing)} to draw")
    for number, code in enumerate(code for code in wanted if code in ways):
        drawn[code] = np.asarray(ways[code]().convert("RGBA"), np.uint8)
        if number % SAVE_EVERY == SAVE_EVERY - 1:
            save(arguments.out, drawn)
    if wanted:
        save(arguments.out, drawn)
    console.log(f"{arguments.out}: {len(drawn)} sprites; without a picture: {missing}")


if __name__ == "__main__":
    main()
