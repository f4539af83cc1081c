"""Guessing the next ids of a reply: what followed the last time that its last ids stood together.

A reply of this model largely repeats words of its request, so a guess read off the text so far is
often right, and several ids can be read in one pass of the model, which on few rows takes hardly
longer than one id does: the weights have to come from memory either way. Guesses are checked, so
they change how soon a reply comes and not what it says (speculative decoding, arXiv 2211.17192;
taking guesses from the text, arXiv 2304.04487).
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_MATCH = 3


def guess_next(context: Sequence[int], at_most: int) -> list[int]:
    """Guess how a text goes on.

    Args:
        context: Ids so far; those below 0 are places of pictures.
        at_most: Most ids guessed.

    Returns:
        The ids that followed the last place where up to three last ids of the context stood before,
        the longest match first; none if the last id is new. Places of pictures end a guess.
    """
    if at_most < 1 or not context or context[-1] < 0:
        return []
    end = len(context) - 1
    best, place = 0, 0
    for start in range(end - 1, -1, -1):
        if context[start] != context[end]:
            continue
        length = 1
        while (
            length < min(_LONGEST_MATCH, start + 1)
            and context[start - length] == context[end - length]
        ):
            length += 1
        if length > best:
            best, place = length, start
            if best == _LONGEST_MATCH:
                break
    guessed = context[place + 1 : place + 1 + at_most] if best else []
    known = next((n for n, index in enumerate(guessed) if index < 0), len(guessed))
    return list(guessed[:known])
