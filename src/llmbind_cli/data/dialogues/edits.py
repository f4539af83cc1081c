"""Edits: changes to the picture in context, as instructions to an image editor.

InstructPix2Pix, which runs them, follows an imperative about the picture it is given
(arXiv 2211.09800), so the prompt is an instruction and not a description.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from llmbind_cli.data.dialogues.casual import Line
from llmbind_cli.data.dialogues.grammar import ARTICLE, finish, phrases
from llmbind_cli.data.dialogues.requests import dressed
from llmbind_cli.data.dialogues.scenes import Wish, being

_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, slots=True)
class Edit:
    """One change.

    Attributes:
        line: What the user says.
        prompt: The instruction to the editor.
        look: How the changed picture differs, in words that can follow its own prompt.
    """

    line: Line
    prompt: str
    look: str


def edit_of(rng: Random, wish: Wish | None, *, attached: bool = False) -> Edit:
    """Draw a change to a picture.

    Args:
        rng: Source of every choice.
        wish: What the picture shows; ``None`` where only the user knows.
        attached: Whether the user attached the picture to this very line.
    """
    bank = phrases()
    guessed = wish is None and rng.random() < 0.3
    if guessed:
        wish = Wish("", subject=bank.pick(rng, "photo_subject"), alive=True)
    values: dict[str, str] = {}
    section = "edit"
    if wish is not None and wish.subject is not None and (guessed or rng.random() < 0.45):
        if wish.plural and rng.random() < 0.35:
            section = "edit_number"
            values["few"], values["other"] = rng.sample(_NUMBERS, 2)
            values["plural"] = wish.subject
        elif not wish.plural:
            section = "edit_subject"
            pronoun = rng.choice(("it", "it", "him", "her")) if wish.alive else "it"
            values = {"n": f"the {wish.subject}", "other": f"{ARTICLE} {being(rng)[0]}"}
            values["s"] = pronoun
    kind = "vp" if rng.random() < 0.62 else "say"
    named = guessed or kind == "say" or rng.random() < 0.65
    if section == "edit_subject" and named:
        values["s"] = values["n"]
    said, prompt, look = bank.pick_columns(rng, f"{section}_{kind}", **values)
    draw = rng.random()
    wrap = None
    if attached and draw < 0.6:
        wrap = f"photo_wrap_{kind}"
    elif draw < 0.5 or (kind == "say" and draw < 0.7):
        wrap = f"edit_wrap_{kind}"
    elif kind == "vp" and draw < 0.9:
        wrap = "vp_wrap"
    if wrap is not None and not (kind == "say" and said[-1] in "!?" and attached):
        said = bank.pick(rng, wrap, **{kind: said})
    outer = 0.7 if attached else 0.1
    return Edit(dressed(rng, [said], outer=outer), finish(prompt), finish(look))
