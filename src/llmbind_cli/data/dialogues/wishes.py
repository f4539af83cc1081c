"""Where wishes come from: captions where the user gave some, and the scene grammar."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.dialogues import scenes
from llmbind_cli.data.dialogues.replies import without_task_tokens
from llmbind_cli.data.dialogues.scenes import MEDIA, Medium, Wish

MAX_CAPTION_WORDS = 26
"""Longer captions are left out: few people type one, and they would fill the context."""

CAPTION_SHARE = 0.4
"""Share of the wishes that are captions where there are captions."""

ENOUGH = 500
"""Captions of a medium from which on they are drawn in full share; fewer would repeat too often."""

_SPACE = re.compile(r"\s+")


class WishSource:
    """Draws wishes for any medium.

    Args:
        captions: Captions by their own medium; any may be empty.
    """

    def __init__(self, captions: CaptionSets) -> None:
        self._captions: dict[Medium, Sequence[str]] = {
            medium: [text for text in map(spoken, getattr(captions, medium)) if text]
            for medium in MEDIA
        }
        share = {m: min(1.0, len(texts) / ENOUGH) for m, texts in self._captions.items()}
        self._own_share = {medium: 0.6 * share[medium] for medium in MEDIA}
        self._share = CAPTION_SHARE * min(1.0, sum(share.values()))
        self._filled = [medium for medium in MEDIA if self._captions[medium]]
        self._bounds = list(accumulate(share[medium] for medium in self._filled))

    def draw(self, rng: Random, medium: Medium, *, short: bool = False) -> Wish:
        """Draw a wish for a medium.

        Args:
            rng: Source of every choice.
            medium: What is asked for. The wish's own domain is another one in part of the cases.
            short: Leave out modifiers and long captions.
        """
        if self._filled and rng.random() < self._share:
            own = rng.random() < self._own_share[medium]
            drawn = bisect(self._bounds, rng.random() * self._bounds[-1])
            texts = self._captions[medium if own else self._filled[drawn]]
            text = texts[int(rng.random() * len(texts))]
            if not short or text.count(" ") < 12:
                added = () if short or rng.random() < 0.6 else scenes.looks(rng, medium)[:1]
                return Wish(text, clause=True, looks=added)
        if (rng.random() < 0.72) if medium == "audio" else (rng.random() < 0.08):
            wish = scenes.audible(rng)
        else:
            wish = scenes.visual(rng)
        return wish if short else replace(wish, looks=scenes.looks(rng, medium))

    @staticmethod
    def music(rng: Random) -> Wish:
        """Draw a piece of music."""
        return Wish(scenes.music(rng), looks=scenes.looks(rng, "audio")[:1])


def spoken(caption: str) -> str:
    """Return a caption as one would say it in mid-sentence, or nothing for an unusable one.

    Task tokens in a caption are taken out: a caption ends up in the assistant's text, where they
    would count.
    """
    text = _SPACE.sub(" ", without_task_tokens(caption)).strip().rstrip(" .")
    text = re.sub(r" (?=[,.;:!?')])", "", text)
    if not text or text.count(" ") >= MAX_CAPTION_WORDS:
        return ""
    first = text.split(" ", 1)[0]
    return text if first[1:] != first[1:].lower() else text[0].lower() + text[1:]
