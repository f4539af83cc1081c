"""Which picture a person means: "the second one", "picture 3", "#3", "the last photo".

Only the words of a message whose reply calls for an edit are read. What stands in quotation marks
is text to be written into a picture, so it names none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip
_SUFFIXED = tuple(f"{n}{'st' if n == 1 else 'nd' if n == 2 else 'rd' if n == 3 else 'th'}"
                  for n in range(1, 11))  # fmt: skip
_PICTURE = r"(?:picture|image|photo|photograph|drawing)"
# "The second one from the left" is a thing in the picture, not a picture.
_ONE = r"one(?!\s+(?:(?:from|on|of|in|at|to)\s+(?:the|these|those|that|this|a|an|my)|with)\b)"
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)|(?<!\w)‘[^’]*’(?!\w)")
_REFERENCE = re.compile(
    rf"""
    (?<![\w&\#])\#\s?(?P<hash>[0-9]{{1,3}})(?![\w])
    | \b{_PICTURE}\s+(?:number\s+|no\.?\s+|nr\.?\s+)?(?P<number>[0-9]{{1,3}})(?![\w%]|\s*px)
    | \b(?:the|my|your)\s+(?:very\s+)?
      (?P<place>{"|".join(_ORDINALS + _SUFFIXED)}|last|latest|newest)\s+
      (?:{_PICTURE}|(?P<one>{_ONE}))\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class PictureReference:
    """A picture that a message names.

    Attributes:
        words: The words that name it.
        number: Its number in the conversation, for "#3" and "picture 3".
        ordinal: Its place among the conversation's pictures, from 1, or -1 for the last one.
        certain: Whether the words can mean nothing else, so that a picture that is not there is
            an error. "The third one" may also be a thing in the picture.
    """

    words: str
    number: int | None = None
    ordinal: int | None = None
    certain: bool = True


def picture_references(text: str) -> list[PictureReference]:
    """Return the pictures that a message names, in the order of the message.

    Args:
        text: The user's words, in English.
    """
    text = _QUOTED.sub(lambda match: " " * len(match[0]), text)
    return [_reference(match) for match in _REFERENCE.finditer(text)]


def _reference(match: re.Match[str]) -> PictureReference:
    words = " ".join(match[0].split())
    if match["hash"]:
        # Three digits may be a colour such as #333.
        return PictureReference(
            words=words, number=int(match["hash"]), certain=len(match["hash"]) < 3
        )
    if match["number"]:
        return PictureReference(words=words, number=int(match["number"]))
    place = match["place"].lower()
    if place in _ORDINALS:
        ordinal = _ORDINALS.index(place) + 1
    elif place in _SUFFIXED:
        ordinal = _SUFFIXED.index(place) + 1
    else:
        ordinal = -1
    return PictureReference(words=words, ordinal=ordinal, certain=match["one"] is None)
