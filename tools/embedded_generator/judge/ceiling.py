"""How well the judge knows drawings that it never saw, in the way that it judges pictures.

The generator learns from such drawings; its figures cannot be expected to pass these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.foreground import colour_shares, has_colour
from judge.recognise import Judge
from llmbind_cli.data.scenes.compose import render
from llmbind_cli.data.scenes.graph import Box, PlacedThing, Scene
from llmbind_cli.data.scenes.sampling import SceneSampler
from llmbind_cli.data.scenes.sprites import Sprites

SIZE_PX = 64
_BOX = Box(0.06, 0.06, 0.94, 0.94)


def rate(judge: Judge, sprites: Sprites, *, scenes: int = 500, seed: int = 7) -> dict[str, Any]:
    """Rate the judge.

    Args:
        judge: The judge.
        sprites: Drawings in a style that it never saw.
        scenes: Number of recoloured things, and of pairs.
        seed: Seed of the scenes.

    Returns:
        Shares from 0 to 1 by name; ``unknown`` lists the things of which no look is among five
        guesses.
    """
    world = judge.world
    looks = [
        (thing, look) for thing in world for look, code in enumerate(thing.codes) if code in sprites
    ]
    singles = [Scene((PlacedThing(thing=thing, box=_BOX, look=look),)) for thing, look in looks]
    labels = judge.labels([thing for thing, _ in looks])
    seen = judge.recognise(_drawn(singles, sprites))
    known = seen.knows(labels)
    # A white thing is hardly to be seen on white; the generator gets such prompts too.
    told = {thing.name for (thing, _), right in zip(looks, known, strict=True) if right}
    report: dict[str, Any] = {
        "single": {
            "count": len(looks),
            "top1": _share(seen.knows(labels, 1)),
            "top5": _share(known),
            "things_top5": len(told) / len({thing.name for thing, _ in looks}),
        }
    }
    complete = all(code in sprites for thing in world for code in thing.codes)
    if complete:  # else a scene may hold a look that is not drawn
        report["coloured"] = _rate_coloured(judge, sprites, scenes, seed)
        report["pair"] = _rate_pairs(judge, sprites, scenes, seed)
    report["unknown"] = sorted({thing.name for thing, _ in looks} - told)
    return report


def _rate_coloured(judge: Judge, sprites: Sprites, count: int, seed: int) -> dict[str, Any]:
    sampler = SceneSampler(judge.world, seed, mix={"coloured": 1.0}, held_out=True)
    scenes = [sampler[number] for number in range(count)]
    images = _drawn(scenes, sprites)
    labels = judge.labels([scene.things[0].thing for scene in scenes])
    seen, shares = judge.recognise(images), colour_shares(images)
    colours = [str(scene.things[0].colour) for scene in scenes]
    hues = [bool(has_colour(shares[n : n + 1], name)[0]) for n, name in enumerate(colours)]
    return {
        "count": count,
        "top1": _share(seen.knows(labels, 1)),
        "top5": _share(seen.knows(labels)),
        "hue": _share(hues),
        "both": _share(np.array(hues) & seen.knows(labels)),
    }


def _rate_pairs(judge: Judge, sprites: Sprites, count: int, seed: int) -> dict[str, Any]:
    sampler = SceneSampler(judge.world, seed, mix={"pair": 1.0}, held_out=True)
    scenes = [sampler[number] for number in range(count)]
    images = _drawn(scenes, sprites)
    first, second = ([scene.things[place].thing for scene in scenes] for place in (0, 1))
    pairs = judge.recognise_pairs(images, first, second)
    true = [scene.relation(0, 1) for scene in scenes]
    placed = [side == found for side, found in zip(true, pairs.sides, strict=True) if side]
    # Chance: how often a pair that is not in the picture passes.
    strangers = judge.recognise_pairs(images, first[1:] + first[:1], second[2:] + second[:2])
    return {
        "count": count,
        "both": _share(pairs.both),
        "one": _share(np.concatenate([pairs.first, pairs.second])),
        "place": _share(placed),
        "other_pairs_both": _share(strangers.both),
    }


def _drawn(scenes: list[Scene], sprites: Sprites) -> NDArray[np.uint8]:
    return np.stack([render(scene, sprites, SIZE_PX)[0] for scene in scenes])


def _share(hits: Any) -> float:
    return round(float(np.mean(hits)), 4)
