"""Nouns as the world file writes them: article, singular and plural in one short text.

``dog`` follows the rules of English; ``wolf/wolves`` gives an irregular plural; ``some popcorn``
and ``the sun`` are not counted; ``a pair of jeans`` is counted in pairs, ``bread/loaves of bread``
in loaves.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from llmbind_cli.data.dialogues.grammar import ARTICLE
from llmbind_cli.data.dialogues.scenes import singular_plural

PAIR = "a pair of"
_UNCOUNTED = ("some", "the")
_PAIRS = "pairs of "
_NUMBERS = {1: "one", 2: "two", 3: "three"}


@dataclass(frozen=True, slots=True)
class Noun:
    """A name of a thing.

    Attributes:
        one: The word or words for one, without an article ("dog", "jeans", "popcorn").
        many: The words for several ("dogs", "pairs of jeans"); ``None`` where it is not counted.
        article: ``a``, ``some``, ``the`` or ``a pair of``; ``a`` stands for "a" or "an".
    """

    one: str
    many: str | None
    article: str

    def phrase(self, adjectives: str = "") -> str:
        """Return the noun with article and adjectives, "a" not yet chosen from "a" and "an"."""
        article = ARTICLE if self.article == "a" else self.article
        return " ".join(filter(None, (article, adjectives, self.one)))

    def counted(self, count: int, adjectives: str = "", *, digits: bool = False) -> str:
        """Return "two red dogs".

        Args:
            count: 2 or 3.
            adjectives: Words before the noun; "" for none.
            digits: Whether the number is written as a digit.

        Raises:
            ValueError: The noun is not counted.
        """
        number = str(count) if digits else _NUMBERS[count]
        return f"{number} {self.several(adjectives)}"

    def several(self, adjectives: str = "") -> str:
        """Return "red dogs".

        Raises:
            ValueError: The noun is not counted.
        """
        if self.many is None:
            raise ValueError(f"{self.one!r} has no plural")
        opening = _PAIRS if self.article == PAIR else ""
        return " ".join(filter(None, (opening.strip(), adjectives, self.many[len(opening) :])))


@functools.cache
def parse_noun(text: str) -> Noun:
    """Read a noun as the world file writes it.

    Args:
        text: For example ``dog``, ``wolf/wolves``, ``some popcorn``, ``a pair of jeans``.

    Returns:
        The noun with its plural.

    Raises:
        ValueError: The text is empty.
    """
    article, rest = "a", text.strip()
    for opening in (PAIR, *_UNCOUNTED, "an", "a"):
        if rest.startswith(f"{opening} "):
            article, rest = opening if opening != "an" else "a", rest[len(opening) + 1 :].strip()
            break
    if not rest:
        raise ValueError(f"a noun is empty: {text!r}")
    if article in _UNCOUNTED:
        return Noun(one=rest, many=None, article=article)
    if article == PAIR:
        one = rest.partition("/")[0]
        return Noun(one=one, many=f"{_PAIRS}{one}", article=PAIR)
    one, many = singular_plural(rest)
    # "Bread" is counted in loaves: one says some bread, and two loaves of it.
    measured = many.endswith(f" of {one}")
    return Noun(one=one, many=many, article="some" if measured else "a")
