"""Turns annotated pictures into dialogues that ask for masks, and for words between them.

LLMBind (A.5) found that a model trained on masks emits the segmentation token in plain answers too.
So a share of what is asked of the same pictures is answered by words alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from llmbind_cli.data.sample import Sample, SegmentTarget, Turn
from llmbind_cli.data.segmentation import wordings
from llmbind_cli.data.segmentation.annotations import AnnotatedPicture, Region, SourceTask

_TOGETHER = 0.15
"""How often two things are asked for in one question."""

_WORDS_ALONE = 0.1
_WITH_REASON = 0.5
"""Of what has an explanation: how often it is the whole answer, and how often it follows the mask
(dvlab-research/LISA 3cb2d43, ``utils/reason_seg_dataset.py``)."""

_OWN_DIALOGUE = 0.5
"""How often plain questions make a dialogue of their own."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a source asks.

    Args:
        source: Name of the source, which stands in the samples' ids.
        task: What the samples teach.
        seed: Seed of the wordings; the same seed gives the same samples.
        expressions: Most masks in one dialogue, ≥ 1.
        plain: Share of the questions that words alone answer, in [0, 1).
        tied: Replies repeat what is marked right before its token, but for whole sentences.
    """

    source: str
    task: SourceTask
    seed: int = 0
    expressions: int = 3
    plain: float = 0.25
    tied: bool = False

    def __post_init__(self) -> None:
        if self.expressions < 1 or not 0 <= self.plain < 1:
            raise ValueError(
                f"expressions must be ≥ 1 and plain in [0, 1), got {self.expressions} and "
                f"{self.plain}"
            )

    def samples(self, picture: AnnotatedPicture) -> Iterator[Sample]:
        """Yield the dialogues about a picture: each expression of each region stands in one."""
        rng = Random(f"ask/{self.source}/{self.seed}/{picture.id}")
        pairs = [(region, name) for region in picture.regions for name in region.names]
        rng.shuffle(pairs)
        number = 0
        for start in range(0, len(pairs), self.expressions):
            exchanges = _exchanges(rng, pairs[start : start + self.expressions], tied=self.tied)
            apart: list[_Exchange] = []
            plain = self._plain(rng, picture, len(exchanges))
            if rng.random() < _OWN_DIALOGUE:
                apart = plain
            else:
                exchanges += plain
                rng.shuffle(exchanges)
            for part in filter(None, (exchanges, apart)):
                yield self._sample(picture, part, number)
                number += 1

    def _plain(self, rng: Random, picture: AnnotatedPicture, masks: int) -> list[_Exchange]:
        """Draw plain questions, so many that they have their share over many pictures."""
        wanted = masks * self.plain / (1 - self.plain)
        count = int(wanted) + (rng.random() < wanted % 1)
        return [
            _Exchange(
                wordings.plain_question(rng, fact.kind, **fact.words),
                wordings.plain_reply(fact.answer),
            )
            for fact in rng.sample(picture.facts, min(count, len(picture.facts)))
        ]

    def _sample(
        self, picture: AnnotatedPicture, exchanges: Sequence[_Exchange], number: int
    ) -> Sample:
        segments = tuple(segment for exchange in exchanges for segment in exchange.segments)
        return Sample(
            id=f"{self.source}/{picture.id}/{number}",
            turns=[
                turn
                for exchange in exchanges
                for turn in (Turn("user", exchange.said), Turn("assistant", exchange.replied))
            ],
            image=str(picture.picture.path),
            pictures=(picture.picture,),
            segments=segments,
            source_task=self.task if segments else "vqa",
        )


@dataclass(frozen=True, slots=True)
class _Exchange:
    said: str
    replied: str
    segments: tuple[SegmentTarget, ...] = ()


def _exchanges(rng: Random, pairs: Sequence[tuple[Region, str]], *, tied: bool) -> list[_Exchange]:
    """Ask for each region, now and then for two at once."""
    exchanges = []
    waiting = list(pairs)
    while waiting:
        region, name = waiting.pop()
        can_pair = waiting and all(r.naming in ("phrase", "part") for r in (region, waiting[-1][0]))
        if can_pair and waiting[-1][0] is not region and rng.random() < _TOGETHER:
            other, other_name = waiting.pop()
            exchanges.append(
                _Exchange(
                    wordings.question_for_two(rng, name, other_name),
                    wordings.reply_for_two(rng, name, other_name),
                    (_target(region, name), _target(other, other_name)),
                )
            )
        else:
            exchanges.append(_exchange(rng, region, name, tied=tied))
    return exchanges


def _exchange(rng: Random, region: Region, name: str, *, tied: bool) -> _Exchange:
    said = wordings.question(rng, region.naming, name)
    tied = tied and region.naming != "sentence"
    replied = wordings.reply(rng, region.naming, name, tied=tied)
    if region.explanation:
        if rng.random() < _WORDS_ALONE:
            return _Exchange(name, wordings.plain_reply(region.explanation))
        if rng.random() < _WITH_REASON:
            said = wordings.question_why(rng, said)
            replied = f"{replied} {wordings.plain_reply(region.explanation)}"
    return _Exchange(said, replied, (_target(region, name),))


def _target(region: Region, name: str) -> SegmentTarget:
    return SegmentTarget(mask=region.mask, phrase=name, ignored=region.ignored)
