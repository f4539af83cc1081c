"""The dialogue builder (LLMBind section 3.4, figure 6).

Deviation: the paper had a chat service write its 400 k dialogues; these come from a phrase
grammar, so that anyone can rebuild them offline, and each one is a function of seed and number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.dialogues.replies import without_task_tokens
from llmbind_cli.data.dialogues.scenes import MEDIA
from llmbind_cli.data.dialogues.session import Session
from llmbind_cli.data.dialogues.wishes import WishSource
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.data.talk import Talk

# Image, video and audio calls come out equally often: sessions bring more pictures, because only
# pictures can be edited, and the single requests make up for it.
_KINDS = {
    "image": 0.075,
    "video": 0.14,
    "audio": 0.135,
    "photo_edit": 0.06,
    "two_wishes": 0.04,
    "session": 0.3,
    "talk": 0.2,
    "tag_talk": 0.02,
    "photo_other": 0.02,
}
_NAMES = tuple(_KINDS)
_BOUNDS = tuple(accumulate(_KINDS.values()))

_SEED_STRIDE = 1_000_000_007


def build_dialogues(
    *, count: int, seed: int, captions: CaptionSets, talk: Sequence[Talk]
) -> Iterator[Dialogue]:
    """Build multi-turn dialogues of generation, editing and plain talk, one after another.

    Dialogue ``i`` depends on ``seed``, ``i`` and the given texts alone, so a shorter run is the
    beginning of a longer one.

    Args:
        count: Number of dialogues, ≥ 0.
        seed: Seed, ≥ 0.
        captions: Captions to ask for; where all are empty, the scene grammar serves alone.
        talk: Plain messages with their replies. Task tokens in a reply are taken out.

    Yields:
        The dialogues, ids ``built-SEED-NUMBER``.

    Raises:
        ValueError: ``count`` or ``seed`` is negative.
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must be ≥ 0, got {count} and {seed}")
    wishes = WishSource(captions)
    plain = [
        replace(pair, reply=without_task_tokens(pair.reply))
        for pair in talk
        if without_task_tokens(pair.reply).strip()
    ]
    for index in range(count):
        rng = Random(seed * _SEED_STRIDE + index)
        session = Session(rng=rng, wishes=wishes, talk=plain)
        _fill(session, rng, index)
        yield Dialogue(id=f"built-{seed}-{index:06d}", turns=session.turns, image=session.image)


def _fill(session: Session, rng: Random, index: int) -> None:
    draw = rng.random() * _BOUNDS[-1]
    kind = next(name for name, bound in zip(_NAMES, _BOUNDS, strict=True) if draw <= bound)
    if kind in {"image", "video", "audio"}:
        session.request(kind)  # type: ignore[arg-type]
    elif kind == "photo_edit":
        session.photo_edit(f"photo-{index:06d}.jpg" if rng.random() < 0.85 else None)
    elif kind == "photo_other":
        session.image = f"photo-{index:06d}.jpg"
        session.request(rng.choice(MEDIA))
    elif kind == "two_wishes":
        session.two_wishes()
    elif kind == "tag_talk":
        session.tag_talk()
    elif kind == "talk":
        session.talk()
        while rng.random() < 0.2:
            session.talk()
    else:
        draw = rng.random()
        if draw < 0.15:
            session.talk()
        elif draw < 0.25:
            session.photo_edit(f"photo-{index:06d}.jpg")
        else:
            session.request(rng.choice(("image", "image", "image", "video", "audio")))
    more = {"session": 0.999, "two_wishes": 0.2, "photo_edit": 0.25}.get(kind, 0.0)
    while len(session.turns) < 12 and rng.random() < more:
        session.follow()
        more = min(more, 0.45)
