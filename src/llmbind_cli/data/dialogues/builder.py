"""The dialogue builder (LLMBind section 3.4, figure 6).

Deviation: the paper had a chat service write its 400 k dialogues; these come from a phrase
grammar, so that anyone can rebuild them offline, and each one is a function of seed and number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from random import Random

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.dialogues.replies import without_task_tokens
from llmbind_cli.data.dialogues.scenes import MEDIA
from llmbind_cli.data.dialogues.session import Session
from llmbind_cli.data.dialogues.wishes import WishSource
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.data.talk import Talk
from llmbind_cli.errors import InputDataError

# Image, video and audio calls come out equally often: sessions bring more pictures, because only
# pictures can be edited, and the single requests make up for it.
KINDS = {
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
"""Kind of dialogue → its share, unless a recipe names others."""

_PLAIN = frozenset({"talk", "tag_talk"})
"""Kinds whose material may be small: one of them that was there before is talked on."""

_SEED_STRIDE = 1_000_000_007

_MOST_TURNS = 8
"""User and assistant turns, after which a dialogue is not made longer."""

_ATTEMPTS = 100
"""How often a dialogue is drawn again before the material counts as exhausted."""


def build_dialogues(
    *,
    count: int,
    seed: int,
    captions: CaptionSets,
    talk: Sequence[Talk],
    kinds: Mapping[str, float] | None = None,
) -> DialogueBuilder:
    """Build multi-turn dialogues of generation, editing and plain talk, no two of them alike.

    Dialogue ``i`` depends on ``seed``, the given texts and the dialogues before it alone, so a
    shorter run is the beginning of a longer one.

    Args:
        count: Number of dialogues, ≥ 0.
        seed: Seed, ≥ 0.
        captions: Captions to ask for; where all are empty, the scene grammar serves alone.
        talk: Plain messages with their replies. Task tokens in a reply are taken out.
        kinds: Share of each kind of dialogue, relative to the others'; :data:`KINDS` if not given.

    Returns:
        An iterator over the dialogues, ids ``built-SEED-NUMBER``, that also counts their kinds.

    Raises:
        ValueError: ``count`` or ``seed`` is negative.
    """
    return DialogueBuilder(count=count, seed=seed, captions=captions, talk=talk, kinds=kinds)


class DialogueBuilder(Iterator[Dialogue]):
    """Builds one dialogue after another; :func:`build_dialogues` tells how.

    A dialogue whose turns were all there before is built in another way. Plain talk, of which
    there may be little, goes on with one more exchange; everything else is drawn again. The kind
    stays as it was drawn, so repetitions never shift the proportions of the kinds.

    Attributes:
        kinds: Kind → dialogues built so far.
        repeats: Kind → dialogues whose first draw had been there before.
    """

    def __init__(
        self,
        *,
        count: int,
        seed: int,
        captions: CaptionSets,
        talk: Sequence[Talk],
        kinds: Mapping[str, float] | None = None,
    ) -> None:
        if count < 0 or seed < 0:
            raise ValueError(f"count and seed must be ≥ 0, got {count} and {seed}")
        shares = KINDS if kinds is None else kinds
        self._names, self._bounds = tuple(shares), tuple(accumulate(shares.values()))
        if not set(shares) <= set(KINDS) or not self._bounds or min(shares.values()) < 0:
            raise ValueError(f"kinds must give {', '.join(KINDS)} shares ≥ 0, got {dict(shares)}")
        self.kinds: Counter[str] = Counter()
        self.repeats: Counter[str] = Counter()
        self._count = count
        self._seed = seed
        self._next = 0
        self._seen: set[int] = set()
        self._wishes = WishSource(captions)
        spoken = (
            Talk(pair.prompt.strip(), without_task_tokens(pair.reply).strip(), pair.complete)
            for pair in talk
        )
        self._talk = [pair for pair in spoken if pair.prompt and pair.reply]

    def __len__(self) -> int:
        """Number of dialogues that are still to come."""
        return self._count - self._next

    def __next__(self) -> Dialogue:
        """Build the next dialogue.

        Raises:
            InputDataError: The material gives no further dialogue that was not there before.
        """
        if self._next >= self._count:
            raise StopIteration
        index = self._next
        rng = Random(self._seed * _SEED_STRIDE + index)
        kind = self._kind(rng)
        for attempt in range(_ATTEMPTS):
            session = Session(rng=rng, wishes=self._wishes, talk=self._talk)
            _fill(session, rng, index, kind)
            new = self._claim_turns(session, index)
            self.repeats[kind] += attempt == 0 and new is None
            while new is None and kind in _PLAIN and len(session.turns) < _MOST_TURNS:
                session.talk()
                new = self._claim_turns(session, index)
            if new is not None:
                self._next += 1
                self.kinds[kind] += 1
                return new
            # A generator seeded with text draws the same numbers in every process and release.
            rng = Random(f"{self._seed}/{index}/{attempt}")
        raise InputDataError(
            f"dialogue {index}: {_ATTEMPTS} draws gave nothing new of kind {kind!r}: the material "
            f"is too small for {self._count:,} dialogues; lower count, or give more captions and "
            f"talk"
        )

    def claim(self, dialogue: Dialogue) -> bool:
        """Take a dialogue that came from elsewhere as given out, unless one like it was.

        Returns:
            Whether it is new.
        """
        fingerprint = dialogue.fingerprint()
        new = fingerprint not in self._seen
        self._seen.add(fingerprint)
        return new

    def _kind(self, rng: Random) -> str:
        draw = rng.random() * self._bounds[-1]
        pairs = zip(self._names, self._bounds, strict=True)
        return next(name for name, bound in pairs if draw <= bound)

    def _claim_turns(self, session: Session, index: int) -> Dialogue | None:
        """Return a session's dialogue; nothing when it was there before."""
        name = f"built-{self._seed}-{index:06d}"
        dialogue = Dialogue(id=name, turns=session.turns, image=session.image)
        return dialogue if self.claim(dialogue) else None


def _fill(session: Session, rng: Random, index: int, kind: str) -> None:
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
    while len(session.turns) < _MOST_TURNS and rng.random() < more:
        session.follow()
        more = min(more, 0.45)
