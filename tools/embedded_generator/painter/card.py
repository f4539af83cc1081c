"""The model card of an exported generator, from what was measured."""

from __future__ import annotations

from typing import Any

_TARGETS = (
    # title, part of the report, figure, target
    ("a thing by its name: top-5", "names", "top5", 0.85),
    ("a thing by a synonym: top-5", "synonyms", "top5", 0.85),
    ("a thing by its name: top-1", "names", "top1", None),
    ("a thing by a synonym: top-1", "synonyms", "top1", None),
    ("thing in a colour that training never gave it: the hue is right", "coloured", "hue", 0.85),
    ("… and the thing is still recognised: top-5", "coloured", "top5", 0.65),
    ("… both", "coloured", "both", None),
    ("two things that training never put together: both recognised", "pairs", "both", 0.5),
    ("… each by itself", "pairs", "each", None),
    ("… on the side that was asked for", "pairs", "place", 0.75),
    ("… a pair that was not asked for would pass", "pairs", "other_pairs", None),
    ("two seeds of one prompt differ visibly", "two_seeds", "differ_visibly", None),
)
_CEILINGS = {
    ("names", "top5"): ("single", "top5"),
    ("names", "top1"): ("single", "top1"),
    ("coloured", "hue"): ("coloured", "hue"),
    ("coloured", "top5"): ("coloured", "top5"),
    ("coloured", "both"): ("coloured", "both"),
    ("pairs", "both"): ("pair", "both"),
    ("pairs", "each"): ("pair", "one"),
    ("pairs", "place"): ("pair", "place"),
    ("pairs", "other_pairs"): ("pair", "other_pairs_both"),
}


def model_card(report: dict[str, Any], ceiling: dict[str, Any], *, parameters: int) -> str:
    """Return the card's text.

    Args:
        report: What ``measure`` found.
        ceiling: What the judge makes of the true drawings (``judge score``).
        parameters: Number of weights of all networks.
    """
    rows = []
    for title, part, figure, target in _TARGETS:
        best = _CEILINGS.get((part, figure))
        rows.append(
            f"| {title} | {report[part]['count']} | {report[part][figure]:.1%} "
            f"| {f'{target:.0%}' if target else ''} "
            f"| {f'{ceiling[best[0]][best[1]]:.1%}' if best else ''} |"
        )
    sampling = report["sampling"]
    return _CARD.format(
        parameters=parameters / 1e6,
        steps=sampling["num_inference_steps"],
        guidance=sampling["guidance_scale"],
        rows="\n".join(rows),
        count=report["prompts"]["count"],
        sha256=report["prompts"]["sha256"],
        seed=report["seed"],
    )


_CARD = """# The embedded image generator

Draws one to three of 855 things that one can name, in the style of emoji, 128 px on a side. A
Stable Diffusion pipeline in the ordinary layout, {parameters:.1f} M weights, trained from scratch
on drawings of Noto emoji (Apache-2.0, Google) that were put together into scenes;
`tools/embedded_generator` makes it again. Large weights are stored as 8-bit floats.

It knows names, synonyms, eleven colours, sizes, counts to three, sides and simple backgrounds.
Words that it does not know are left out, and a line on stderr says so. It draws no text and nothing
beyond that; name a bigger model with `--generator image=PATH_OR_ID` for the rest.

## Measured

`python tools/embedded_generator/painter measure PIPELINE JUDGE`: {count} pictures, {steps} steps,
guidance {guidance:g}, seed {seed}, prompts sha256
{sha256}. The judge learned
from seven other artists' drawings of the same things and never saw this style. The last column is
what it makes of the true drawings: no generator of this style can be expected to pass it.

| what | pictures | share | target | true drawings |
|---|---|---|---|---|
{rows}

Colours and pairs that are held out are chosen by a hash of their names (`is_held_out_colour`,
`is_held_out_pair` in `llmbind_cli.data.scenes.sampling`); no training picture has them.
"""
