"""Measure a generator with the judge, on words that training did and scenes that it never saw.

Every picture is drawn by the pipeline as it is shipped, with its own steps and guidance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from judge.foreground import colour_shares, difference, has_colour
from judge.recognise import Judge
from numpy.typing import NDArray

from llmbind_cli.console import console
from llmbind_cli.data.scenes.graph import Scene, Side
from llmbind_cli.data.scenes.nouns import Noun
from llmbind_cli.data.scenes.sampling import SceneSampler
from llmbind_cli.data.scenes.world import World

_BATCH = 32
_VISIBLY = 0.05
"""Mean difference, 0 to 1, from which two pictures of one prompt are told apart."""

_SIDES: dict[Side, str] = {
    "left of": "{a} to the left of {b}",
    "right of": "{a} to the right of {b}",
    "above": "{a} above {b}",
    "below": "{a} below {b}",
}


class Drawer:
    """A pipeline folder that draws prompts.

    Args:
        folder: The pipeline, with its ``sampling.json``.
        seed: Seed of the first picture; each picture has its own.
    """

    def __init__(self, folder: Path, *, seed: int) -> None:
        from diffusers import StableDiffusionPipeline

        self.pipeline = StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=torch.float32, safety_checker=None, local_files_only=True
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.sampling = json.loads((folder / "sampling.json").read_text(encoding="utf-8"))
        self._seed = seed

    def draw(self, prompts: Sequence[str], *, shift: int = 0) -> NDArray[np.uint8]:
        """Return the pictures of prompts, [B, H, W, 3]; ``shift`` moves all seeds."""
        images = []
        for start in range(0, len(prompts), _BATCH):
            part = list(prompts[start : start + _BATCH])
            chance = [
                torch.Generator().manual_seed(self._seed + shift + start + n)
                for n in range(len(part))
            ]
            made = self.pipeline(part, generator=chance, output_type="np", **self.sampling).images
            images.append(np.rint(np.asarray(made) * 255).astype(np.uint8))
        return np.concatenate(images)


def measure(drawer: Drawer, judge: Judge, *, names: int, scenes: int, seed: int) -> dict[str, Any]:
    """Return all figures, with their counts and the hash of the prompts.

    Args:
        drawer: The generator.
        judge: Who recognises the things.
        names: Number of things drawn by their name, and again by a synonym.
        scenes: Number of held-out coloured things, and of held-out pairs.
        seed: Seed of the choice of prompts.
    """
    world = judge.world
    report: dict[str, Any] = {"seed": seed, "sampling": drawer.sampling}
    prompts: list[str] = []
    rng = Random(f"measure/{seed}")
    chosen = rng.sample(list(world), min(names, len(world)))
    synonyms = [rng.choice(thing.synonyms or (thing.noun,)) for thing in chosen]
    for key, nouns in (("names", [t.noun for t in chosen]), ("synonyms", synonyms)):
        words = [_phrase(noun) for noun in nouns]
        images = drawer.draw(words)
        seen, labels = judge.recognise(images), judge.labels(chosen)
        report[key] = _shares(top1=seen.knows(labels, 1), top5=seen.knows(labels))
        prompts += words
        console.log(f"{key}: {report[key]}")
        if key == "names":
            apart = difference(images, drawer.draw(words, shift=100_000))
            report["two_seeds"] = _shares(differ_visibly=apart > _VISIBLY) | {
                "median_difference": round(float(np.median(apart)), 3)
            }
            console.log(f"two seeds: {report['two_seeds']}")
    report["coloured"], words = _coloured(drawer, judge, scenes, seed)
    prompts += words
    console.log(f"coloured: {report['coloured']}")
    report["pairs"], words = _pairs(drawer, judge, scenes, seed)
    prompts += words
    console.log(f"pairs: {report['pairs']}")
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    return report | {"prompts": {"count": len(prompts), "sha256": digest}}


def _coloured(
    drawer: Drawer, judge: Judge, count: int, seed: int
) -> tuple[dict[str, Any], list[str]]:
    scenes = _held_out(judge.world, "coloured", count, seed)
    placed = [scene.things[0] for scene in scenes]
    words = [_phrase(one.thing.noun, str(one.colour)) for one in placed]
    images = drawer.draw(words)
    labels = judge.labels([one.thing for one in placed])
    seen, shares = judge.recognise(images), colour_shares(images)
    hue = np.array(
        [has_colour(shares[n : n + 1], str(one.colour))[0] for n, one in enumerate(placed)]
    )
    return _shares(hue=hue, top5=seen.knows(labels), both=hue & seen.knows(labels)), words


def _pairs(drawer: Drawer, judge: Judge, count: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    scenes = [s for s in _held_out(judge.world, "pair", 2 * count, seed) if s.relation(0, 1)]
    scenes = scenes[:count]
    sides = [scene.relation(0, 1) for scene in scenes]
    first, second = ([scene.things[place].thing for scene in scenes] for place in (0, 1))
    words = [
        _SIDES[side].format(a=_phrase(a.noun), b=_phrase(b.noun))
        for side, a, b in zip(sides, first, second, strict=True)
        if side is not None
    ]
    images = drawer.draw(words)
    pairs = judge.recognise_pairs(images, first, second)
    placed = np.array([side == found for side, found in zip(sides, pairs.sides, strict=True)])
    # Chance: how often a pair that was not asked for passes.
    strangers = judge.recognise_pairs(images, first[1:] + first[:1], second[2:] + second[:2])
    shares = _shares(
        both=pairs.both,
        each=np.concatenate([pairs.first, pairs.second]),
        place=placed,
        place_where_both=placed[pairs.both],
        other_pairs=strangers.both,
    )
    return shares, words


def _held_out(world: World, kind: Any, count: int, seed: int) -> list[Scene]:
    sampler = SceneSampler(world, seed, mix={kind: 1.0}, held_out=True)
    return [sampler[number] for number in range(count)]


def _phrase(noun: Noun, colour: str = "") -> str:
    from llmbind_cli.data.dialogues.grammar import finish

    return finish(noun.phrase(colour))


def _shares(**hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of each, and the number of the first."""
    count = len(next(iter(hits.values())))
    shares = {key: round(float(np.mean(values)), 4) for key, values in hits.items() if len(values)}
    return {"count": count} | shares
