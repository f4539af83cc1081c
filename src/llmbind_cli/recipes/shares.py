"""The sources' shares of an epoch where a recipe gives none: those of LLMBind (section 4.1).

Segmentation : questions about pictures : dialogues that call generators = 1 : 1 : 1; within
segmentation semantic : referring : reasoning = 9 : 3 : 1. Sources of one part share it alike, so
that four of dialogues, one for each generator, have 1 : 1 : 1 : 1. A part that no source gives
leaves its share to the others of its group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from llmbind_cli.recipes.picture_schema import Part

GROUPS: tuple[Mapping[Part, float], ...] = (
    {"semantic": 9.0, "refer": 3.0, "reason": 1.0},
    {"vqa": 1.0},
    {"interactive": 1.0},
)
"""Parts that share one of the equal shares, and how they divide it."""

KIND_PARTS: Mapping[str, Part] = {
    "refer": "refer",
    "reason_seg": "reason",
    "label_maps": "semantic",
    "parts": "semantic",
    "coco": "semantic",
    "coco128": "semantic",
    "scenes": "refer",
    "builder": "interactive",
}
"""What a kind of source teaches; conversations are questions where they have pictures."""


def paper_shares(parts: Sequence[Part]) -> list[float]:
    """Return the share of each source.

    Args:
        parts: What each of them teaches, at least one.

    Returns:
        Shares that add up to the number of groups that are there.
    """
    counts = Counter(parts)
    shares: dict[Part, float] = {}
    for group in GROUPS:
        present = {part: share for part, share in group.items() if part in counts}
        whole = sum(present.values())
        shares |= {part: share / whole / counts[part] for part, share in present.items()}
    return [shares[part] for part in parts]
