"""Requests: how a user asks for a wish, and the prompt that is to be written for it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from llmbind_cli.data.dialogues.casual import Line
from llmbind_cli.data.dialogues.grammar import ARTICLE, finish, phrases
from llmbind_cli.data.dialogues.scenes import Medium, Wish, being, joined, noun, singular_plural

_VISUAL_LINKS = ("showing", "with")
_CLAUSE_LINKS = ("of", "of", "where", "in which", ":", ":", "showing")
_CLAUSE_LINKS_AUDIO = ("of", "of", "where", "in which", ":", "with")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A request without its wrapping.

    Attributes:
        said: Imperative or noun phrase, as the user has it.
        prompt: The written prompt.
    """

    said: str
    prompt: str


def phrase(rng: Random, section: str, wish: Wish) -> Phrase:
    """Word a wish by a section such as ``image_vp``; its modifiers stand in the phrase."""
    audio = section.startswith("audio")
    of = "of"
    if wish.clause:
        of = rng.choice(_CLAUSE_LINKS_AUDIO if audio else _CLAUSE_LINKS)
    elif not audio and rng.random() < 0.08:
        of = rng.choice(_VISUAL_LINKS)
    full = wish.full
    verbal = full
    if wish.clause and rng.random() < 0.4:
        verbal = rng.choice((f"this: {full}", f"the following: {full}", f'"{full}"'))
    said, *written = phrases().pick_columns(
        rng, section, x=full, xx=verbal, of=of, v=_moving(rng), m=full
    )
    return Phrase(said, finish(written[0]) if written else full)


def _moving(rng: Random) -> str:
    """Draw what a clip of some seconds can show, without an article."""
    if rng.random() < 0.5:
        text = phrases().pick(rng, "landscape")
        return text.removeprefix("~").removeprefix("a ").removeprefix("an ")
    return f"{being(rng)[1]} {phrases().pick(rng, 'action')}"


def ask(rng: Random, medium: Medium, wish: Wish) -> tuple[Line, str]:
    """Word a whole request.

    Args:
        rng: Source of every choice.
        medium: What is asked for.
        wish: What it is to be of. Some requests bring a wish of their own instead.

    Returns:
        The user's line and the prompt to be written for it.
    """
    draw = rng.random()
    if draw < 0.06:
        return _named(rng, medium)
    if medium == "audio" and draw < 0.13:
        return _impression(rng)
    tail: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    if wish.looks and rng.random() < 0.35:
        tail, wish = wish.looks, Wish(wish.text, clause=wish.clause)
    bank = phrases()
    kind = rng.random()
    still = medium == "audio" and wish.subject is not None and not wish.alive
    if still or 0.46 <= kind < 0.7:
        core = phrase(rng, f"{medium}_np", wish)
        wrap = "kid" if kind > 0.685 else "np_wrap"
        said = bank.pick(rng, wrap, np=_with_purpose(rng, core.said))
    elif kind < 0.46:
        core = phrase(rng, f"{medium}_vp", wish)
        said = bank.pick(rng, "vp_wrap", vp=_with_purpose(rng, core.said))
    else:
        core = phrase(rng, f"{medium}_free", wish)
        said = core.said
    sentences = [said]
    if rng.random() < 0.08:
        scene = "heard" if medium == "audio" else "seen"
        for _ in range(rng.randint(1, 2)):
            sentence, detail = bank.pick_columns(rng, f"detail_{scene}")
            sentences.append(sentence)
            details = (*details, finish(detail))
    for look in tail:
        negative = look.startswith(("no ", "not ", "nothing", "without", "but "))
        sentences.append(bank.pick(rng, "without_tail" if negative else "look_tail", look=look))
    return dressed(rng, sentences), joined(core.prompt, (*details, *tail))


def ask_music(rng: Random, wish: Wish) -> tuple[Line, str]:
    """Word a request for a piece of music."""
    core = phrase(rng, "audio_music", wish)
    said = core.said
    if rng.random() < 0.4 and core.said.startswith(("play", "compose", "record", "perform", "hum")):
        said = phrases().pick(rng, "vp_wrap", vp=_with_purpose(rng, said))
    return dressed(rng, [said]), core.prompt


def _with_purpose(rng: Random, said: str) -> str:
    if rng.random() < 0.08 and said[-1] not in ".!?":
        return f"{said} {phrases().pick(rng, 'purpose')}"
    return said


def _named(rng: Random, medium: Medium) -> tuple[Line, str]:
    """Word a request whose subject stands outside it, so that "one" must be looked up."""
    bank = phrases()
    does = "making a noise"
    if medium == "audio":
        source, does = bank.pick(rng, "voice").split("/")
        one, many = singular_plural(source)
    else:
        one, many = being(rng) if rng.random() < 0.7 else noun(rng, "vehicle")
    act = bank.pick(rng, "action" if rng.random() < 0.6 else "wearing")
    said, prompt = bank.pick_columns(
        rng, f"{medium}_named", one=one, plural=many, act=act, does=does, other=being(rng)[1]
    )
    return dressed(rng, [said], outer=0.3), finish(prompt)


def _impression(rng: Random) -> tuple[Line, str]:
    source, does = phrases().pick(rng, "voice").split("/")
    one, many = singular_plural(source)
    said = phrases().pick(rng, "audio_animal", one=f"{ARTICLE} {one}", bare=one, many=many)
    return dressed(rng, [said], outer=0.4), finish(f"{ARTICLE} {one} {does}")


def dressed(rng: Random, sentences: list[str], *, outer: float = 1.0) -> Line:
    """Put greetings, context, rambling and thanks around a request.

    Args:
        rng: Source of every choice.
        sentences: The request itself.
        outer: Scale of the probability of each addition.
    """
    bank = phrases()
    draw = rng.random() / outer if outer else 1.0
    before: list[str] = []
    after: list[str] = []
    if draw < 0.04:
        before = list(dict.fromkeys(bank.pick(rng, "filler") for _ in range(rng.randint(2, 4))))
    elif draw < 0.14:
        before = [bank.pick(rng, "context")]
    elif draw < 0.22:
        after = [bank.pick(rng, "tail")]
    elif draw < 0.25:
        before, after = [bank.pick(rng, "context")], [bank.pick(rng, "tail")]
    greeting = ""
    if rng.random() < 0.12 * outer:
        greeting = bank.pick(rng, "greeting")
    return Line([finish(part) for part in (*before, *sentences, *after)], greeting=finish(greeting))
