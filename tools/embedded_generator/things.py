"""Check the world file against the drawings, and measure the colours in it.

    python tools/embedded_generator/things.py SOURCE SPRITES.npz

``src/llmbind_cli/data/scenes/things.jsonl`` is written by hand, one thing a line. This command
reads it, says what is wrong with it, measures each thing's main colours in its sprites, and writes
it back in one form. SOURCE is the folder that ``fetch.py`` filled, SPRITES what ``render.py`` drew
of the ``noto`` style.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.data.scenes import world
from llmbind_cli.data.scenes.colours import COLOUR_WORDS, HUED, NAMES, classify, to_oklab
from llmbind_cli.data.scenes.nouns import parse_noun
from llmbind_cli.data.scenes.recolour import recolour
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.weights.atomic import write_atomically

FILE = Path(world.__file__).with_name(world.WORLD_FILE)
KEYS = (
    *("name", "plural", "article", "codes", "synonyms"),
    *("category", "category_words", "size", "colours", "recolour"),
)
FEWEST_WORDS = 5
MAIN_SHARE = 0.2
"""Share of a thing's area from which a colour counts as one of its own."""


def colour_shares(sprite: np.ndarray) -> np.ndarray:
    """Return the share of a sprite's opaque area that each named colour covers."""
    seen = sprite[sprite[..., 3] > 127][:, :3]
    names = classify(to_oklab(seen / np.float32(255)))
    return np.bincount(names, minlength=len(NAMES)) / max(len(seen), 1)


def measured_colours(sprites: Sprites, codes: list[str]) -> list[str]:
    """Return the named colours that cover most of a thing's looks, the largest first."""
    shares = np.mean([colour_shares(sprites[code]) for code in codes], axis=0)
    order = np.argsort(-shares)
    return [NAMES[i] for i in order[:3] if shares[i] >= MAIN_SHARE] or [NAMES[order[0]]]


def takes_colour(sprite: np.ndarray, colour: str) -> bool:
    """Tell whether a painted sprite looks that colour.

    A hue must cover the most area of all hues, and at least 15 %; black, white and grey must cover
    the most of all, or at least 30 %.
    """
    shares = dict(zip(NAMES, colour_shares(recolour(sprite, colour)), strict=True))
    if colour in HUED:
        return shares[colour] >= 0.15 and shares[colour] == max(shares[name] for name in HUED)
    return shares[colour] >= 0.3 or shares[colour] == max(shares.values())


def report_recolouring(sprites: Sprites, records: list[dict[str, Any]]) -> None:
    """Print how many of all looks and colours come out right, and which things do so least."""
    failed: Counter[str] = Counter()
    total = 0
    for record in records:
        for code in record["codes"] if record["recolour"] else ():
            failed[record["name"]] += sum(not takes_colour(sprites[code], c) for c in NAMES)
            total += len(NAMES)
    print(f"recoloured as asked: {1 - failed.total() / total:.1%} of {total}")
    print("least:", ", ".join(f"{name} {count}" for name, count in failed.most_common(10)))


def forms(record: dict[str, Any], key: str) -> set[str]:
    """Return every singular and plural of a thing's names, lower case."""
    nouns = [parse_noun(text) for text in record[key]]
    found = {form.lower() for noun in nouns for form in (noun.one, noun.many) if form}
    if key == "synonyms":
        found |= {form.lower() for form in (record["name"], record["plural"]) if form}
    return found


def complaints(records: list[dict[str, Any]]) -> list[str]:
    """Return what breaks the file's rules, one line each."""
    wrong: list[str] = []
    names = Counter(record["name"] for record in records)
    codes = Counter(code for record in records for code in record["codes"])
    owners = Counter(form for record in records for form in forms(record, "synonyms"))
    shared = {form for record in records for form in forms(record, "category_words")}
    wrong += [f"{name}: stands twice" for name, count in names.items() if count > 1]
    wrong += [f"{code}: is the look of two things" for code, count in codes.items() if count > 1]
    wrong += [f"{form!r}: names two things" for form, count in owners.items() if count > 1]
    for record in records:
        name = record["name"]
        if both := forms(record, "synonyms") & shared:
            wrong.append(f"{name}: {sorted(both)} are category words of other things")
        if len(record["synonyms"]) + len(record["category_words"]) < FEWEST_WORDS:
            wrong.append(f"{name}: has fewer than {FEWEST_WORDS} synonyms and category words")
        if record["recolour"] and set(re.findall(r"\w+", name)) & set(COLOUR_WORDS) - {name}:
            wrong.append(f"{name}: is named after its colour, so it cannot be recoloured")
    return wrong


def official_names(source: Path) -> dict[str, str]:
    """Return the code points' names in emoji-datasource."""
    listed = json.loads((source / "names" / "emoji.json").read_text(encoding="utf-8"))
    return {
        "-".join(part for part in entry["unified"].lower().split("-") if part != "fe0f"): (
            f"{entry['name']} {' '.join(entry['short_names'])}".lower().replace("_", " ")
        )
        for entry in listed
    }


def main() -> None:
    """Check, measure, write back; end with 1 where the file is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("sprites", type=Path)
    parser.add_argument("--compare", action="store_true", help="list names no official name shares")
    parser.add_argument("--recolouring", action="store_true", help="measure the recolouring")
    arguments = parser.parse_args()
    sprites = Sprites.load(arguments.sprites)
    records = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    wrong = complaints(records)
    official = official_names(arguments.source)
    for record in records:
        for code in record["codes"]:
            if code not in sprites or code not in official:
                wrong.append(f"{record['name']}: {code} is not drawn or not a code point")
        known = " ".join(official.get(code, "") for code in record["codes"])
        words = {stem for form in forms(record, "synonyms") for stem in form.split()}
        if arguments.compare and not words & set(re.findall(r"[\w-]+", known)):
            print(f"{record['name']}: officially {known}")
    if wrong:
        sys.exit("\n".join(wrong))
    for record in records:
        record["colours"] = measured_colours(sprites, record["codes"])
    lines = [
        json.dumps({key: record[key] for key in KEYS}, ensure_ascii=False) + "\n"
        for record in records
    ]
    write_atomically(FILE, lambda file: file.write("".join(lines).encode()))
    if arguments.recolouring:
        report_recolouring(sprites.scaled(64), records)
    synonyms = sum(len(record["synonyms"]) for record in records)
    console.log(f"{FILE.name}: {len(records)} things, {synonyms} synonyms")


if __name__ == "__main__":
    main()
