"""Expressions for the single things of a photo, by class and place, from COCO annotations."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from llmbind_cli.data.masks import MaskSource, PolygonMask
from llmbind_cli.data.scenes.graph import Box
from llmbind_cli.data.scenes.nouns import parse_noun
from llmbind_cli.data.segmentation.annotations import Fact, Region
from llmbind_cli.data.segmentation.coco import CocoAnnotation
from llmbind_cli.data.segmentation.expressions import Expression, draw_expressions
from llmbind_cli.data.segmentation.objects import SeenObject

SMALLEST = 0.01
"""Things that take up a smaller share of the photo are not asked for, yet may be meant."""

MOST = 6
"""Expressions of each photo."""

_COUNTED = ("no", "one", "two", "three", "four", "five")
_KIN = (
    frozenset({"car", "truck", "bus"}),
    frozenset({"chair", "couch", "bench"}),
    frozenset({"cup", "wine glass", "bottle", "bowl"}),
    frozenset({"tv", "laptop"}),
    frozenset({"bicycle", "motorcycle"}),
    frozenset({"handbag", "backpack", "suitcase"}),
    frozenset({"dining table", "bench"}),
)
"""Classes whose names people use for one another."""


def place_regions(picture: str, annotations: Sequence[CocoAnnotation]) -> list[Region]:
    """Return things that one expression singles out, each with its expression.

    Where a class has a crowd that nobody took apart, none of it is asked for. Expressions without a
    class ("the thing on the left") are left out: a photo shows more than its annotations.

    Args:
        picture: Name of the photo; the same name gives the same expressions.
        annotations: All of the photo.

    Returns:
        Up to ``MOST`` regions, their naming ``phrase``.
    """
    named = [annotation for annotation in annotations if annotation.mask is not None]
    objects = [_seen(annotation, annotation.mask) for annotation in named if annotation.mask]
    # Where the members of a crowd are, nobody knows; its box says nothing of their places.
    crowds = [seen for seen in objects if not seen.names]
    rng = Random(f"places/{picture}")
    drawn: list[Expression] = []
    for expression in draw_expressions(rng, objects, "spatial"):
        (target,) = expression.targets
        noun = expression.query.noun
        in_crowd = any(crowd.may_be_called(noun) for crowd in crowds)
        if noun and not in_crowd and objects[target].area >= SMALLEST:
            drawn.append(expression)
        if len(drawn) == MOST:
            break
    return [
        Region(
            names=(expression.text,),
            naming="phrase",
            mask=objects[expression.targets[0]].mask,
            category=named[expression.targets[0]].category,
        )
        for expression in drawn
    ]


def count_facts(annotations: Sequence[CocoAnnotation]) -> list[Fact]:
    """Return questions after how many there are of a class, where all are large enough to see."""
    facts = []
    for category in dict.fromkeys(annotation.category for annotation in annotations):
        found = [annotation for annotation in annotations if annotation.category == category]
        many = parse_noun(category).many
        is_clear = all(not a.is_crowd and _area(a) >= SMALLEST for a in found)
        if many is not None and is_clear and len(found) < len(_COUNTED):
            facts.append(Fact(kind="how_many", words={"x": many}, answer=_COUNTED[len(found)]))
    return facts


def _seen(annotation: CocoAnnotation, mask: MaskSource) -> SeenObject:
    name = annotation.category.lower()
    kin = frozenset({name}).union(*(group for group in _KIN if name in group))
    return SeenObject(
        names=() if annotation.is_crowd else (parse_noun(annotation.category),),
        loose=kin,
        box=_box(annotation),
        area=_area(annotation),
        mask=mask,
    )


def _box(annotation: CocoAnnotation) -> Box:
    """Return the annotation's box as shares of the photo, inside of it and not empty."""
    x, y, width, height = annotation.box
    image = annotation.image
    left, top = (min(max(at, 0.0), 0.999) for at in (x / image.width, y / image.height))
    right = min(max((x + width) / image.width, left + 1e-3), 1.0)
    bottom = min(max((y + height) / image.height, top + 1e-3), 1.0)
    return Box(left, top, right, bottom)


def _area(annotation: CocoAnnotation) -> float:
    """Return the share of the photo that a thing covers: of its polygons, else of its box."""
    image = annotation.image
    whole = image.width * image.height
    if isinstance(annotation.mask, PolygonMask):
        covered = 0.0
        for points in annotation.mask.polygons:
            x, y = points.T
            covered += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
        return min(covered / whole, 1.0)
    return min(annotation.box[2] * annotation.box[3] / whole, 1.0)
