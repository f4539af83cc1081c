"""What people, and language models that write prompts, call a scene.

One scene has very many captions: keywords, phrases, whole sentences, with synonyms and with words
that change nothing in the picture (style, mood, light). The things are always named; every other
fact is mentioned more often than not, so that the picture follows the words and may vary without.
"""

from __future__ import annotations

from random import Random

from llmbind_cli.data.dialogues.grammar import finish
from llmbind_cli.data.scenes.colours import COLOUR_WORDS, COLOURS
from llmbind_cli.data.scenes.graph import PlacedThing, Scene
from llmbind_cli.data.scenes.nouns import Noun
from llmbind_cli.data.scenes.sampling import BEHIND_PALE, PALE
from llmbind_cli.data.scenes.wording import BANK, EDIBLE, LIVING, OPPOSITE
from llmbind_cli.data.scenes.world import load_world

_SYNONYM, _CATEGORY_WORD, _HEADING = 0.44, 0.05, 0.3
"""How often a thing has another name; the last is for a thing that stands for a category."""

_COLOUR, _OWN_COLOUR, _SIZE, _PLACE, _SPOT = 0.95, 0.05, 0.9, 0.62, 0.92
"""How often a fact is mentioned where it holds: colour, own colour, size, sides, spot."""

_BACKGROUND, _WHITE = 0.9, 0.12
_FILLER, _ACTION = 0.16, 0.1
_MIDDLE = 0.11
"""A thing farther than this from the picture's middle stands at a side of it."""

_SINGLE_COLOUR_WORDS = frozenset(word for word in COLOUR_WORDS if " " not in word)


def caption(scene: Scene, rng: Random, *, exact: bool = False) -> str:
    """Word a scene.

    Args:
        scene: What the picture shows.
        rng: Source of chance; the same state gives the same words.
        exact: Leave out nothing that shows: every colour, size, side and spot is told. Things that
            stand side by side may still be named without their sides, from left to right, and
            three things are named from the top. Of a background that is white as no one has
            thought of it nothing is said; one of a plain white is told.

    Returns:
        One caption, without a line break.
    """
    keywords = rng.random() < 0.16
    mentions = [_mention(placed, rng, keywords=keywords, exact=exact) for placed in scene.things]
    text = mentions[0]
    if len(mentions) > 1:
        text = _joined(scene, mentions, rng, keywords=keywords, exact=exact)
    if len(mentions) == 1:
        living = scene.things[0].thing.category in LIVING
        # "A person surfing" acts already.
        if living and not keywords and "ing" not in text and rng.random() < _ACTION:
            text += " " + BANK.pick(rng, "action")
        text += _spot(scene, rng, exact=exact)
    sentence = not keywords and rng.random() < 0.06
    if sentence:
        text = BANK.pick(rng, "sentence", x=text)
    elif not keywords and rng.random() < 0.16:
        text = BANK.pick(rng, "opening", x=text)
    text += _background(scene, rng, exact=exact)
    for _ in range(rng.choices((0, 1, 2, 3), (0.62, 0.2, 0.12, 0.06))[0]):
        text += ", " + BANK.pick(rng, "style")
    text = finish(text)
    if sentence or rng.random() < 0.1:
        text = text[0].upper() + text[1:]
        if sentence or rng.random() < 0.5:
            text += "."
    return text


def _mention(placed: PlacedThing, rng: Random, *, keywords: bool, exact: bool) -> str:
    """Name one placed thing with some of its facts."""
    thing = placed.thing
    adjectives = []
    if placed.size != "normal" and (exact or rng.random() < _SIZE):
        adjectives.append(BANK.pick(rng, placed.size))
    if not keywords and rng.random() < _FILLER:
        kind = "object"
        if thing.category in LIVING:
            kind = "living"
        elif thing.category in EDIBLE:
            kind = "edible"
        adjectives.append(BANK.pick(rng, kind))
    if placed.colour is not None:
        if exact or rng.random() < _COLOUR:
            adjectives.append(_colour_word(placed.colour, rng))
    elif thing.recolour and len(thing.colours) == 1 and rng.random() < _OWN_COLOUR:
        adjectives.append(thing.colours[0])
    noun = _noun(placed, rng, exact=exact)
    words = " ".join(adjectives)
    if placed.count > 1:
        return noun.counted(placed.count, words, digits=rng.random() < 0.15)
    if keywords:
        return f"{words} {noun.one}".strip()
    return noun.phrase(words)


def _noun(placed: PlacedThing, rng: Random, *, exact: bool) -> Noun:
    """Choose a name: the canonical one, a synonym, now and then a category word.

    A name that holds a colour does not suit a thing that was painted. An exact name is a category
    word only for the thing that stands for the category.
    """
    thing = placed.thing
    nouns: tuple[Noun, ...] = (thing.noun,)
    shared = thing.category_words
    if exact:
        shared = tuple(noun for noun in shared if load_world().by_phrase[noun.one][0] == thing)
    draw, often = rng.random(), _HEADING if exact else _CATEGORY_WORD
    if shared and draw < often:
        nouns = shared
    elif draw < often + _SYNONYM:
        nouns = thing.synonyms
    fitting = [
        noun
        for noun in nouns
        if (placed.count == 1 or noun.many is not None)
        and not (placed.colour and _SINGLE_COLOUR_WORDS.intersection(noun.one.split()))
    ]
    return rng.choice(fitting) if fitting else thing.noun


def _colour_word(name: str, rng: Random) -> str:
    words = COLOURS[name].words
    return words[0] if rng.random() < 0.78 else rng.choice(words)


def _joined(scene: Scene, mentions: list[str], rng: Random, *, keywords: bool, exact: bool) -> str:
    """Join two or three mentions, with their places or without."""
    if len(mentions) == 2:
        return _two(scene, mentions, rng, keywords=keywords, exact=exact)
    row = sorted(range(3), key=lambda index: scene.things[index].box.centre[0])
    in_a_row = all(scene.relation(row[i], row[i + 1]) == "left of" for i in (0, 1))
    if in_a_row and rng.random() < _PLACE:
        a, b, c = (mentions[index] for index in row)
        return BANK.pick(rng, "row", a=a, b=b, c=c)
    if exact:
        centres = [placed.box.centre for placed in scene.things]
        order = sorted(range(3), key=lambda index: centres[index][::-1])
        mentions = [mentions[index] for index in order]
    else:
        rng.shuffle(mentions)
    a, b, c = mentions
    return f"{a}, {b}, {c}" if keywords else BANK.pick(rng, "three", a=a, b=b, c=c)


def _two(scene: Scene, mentions: list[str], rng: Random, *, keywords: bool, exact: bool) -> str:
    a, b = mentions
    side = scene.relation(0, 1)
    across = side in ("left of", "right of")
    if side is not None and ((exact and not across) or rng.random() < _PLACE):
        if side in OPPOSITE:
            a, b, side = b, a, OPPOSITE[side]
        if rng.random() < 0.78 or side == "above" or exact:
            return BANK.pick(rng, side, a=a, b=b)
        section = "across"
    else:
        section = "across" if across and rng.random() < 0.5 else "together"
    if (side == "right of") if exact else (rng.random() < 0.5):
        a, b = b, a
    return f"{a}, {b}" if keywords else BANK.pick(rng, section, a=a, b=b)


def _spot(scene: Scene, rng: Random, *, exact: bool) -> str:
    """Tell where a single thing stands that is away from the middle."""
    placed = scene.things[0]
    x, y = placed.box.centre
    words = [
        *(["top"] if y < 0.5 - _MIDDLE else ["bottom"] if y > 0.5 + _MIDDLE else []),
        *(["left"] if x < 0.5 - _MIDDLE else ["right"] if x > 0.5 + _MIDDLE else []),
    ]
    said = _SPOT if placed.size == "normal" else 0.4
    if not words or not (exact or rng.random() <= said):
        return ""
    return " " + BANK.pick(rng, " ".join(words))


def _background(scene: Scene, rng: Random, *, exact: bool) -> str:
    """Tell what lies behind the things, "" where nothing is to be told."""
    background = scene.background
    said = _WHITE if background.kind == "white" else _BACKGROUND
    if exact:
        pale = background == BEHIND_PALE and any(p.colour in PALE for p in scene.things)
        said = 0.0 if background.kind == "white" else 1 - _BACKGROUND if pale else 1.0
    if rng.random() >= said:
        return ""
    if scene.things[0].thing.alone:
        return ""
    tone = "" if background.colour is None else _colour_word(background.colour, rng)
    return " " + BANK.pick(rng, background.kind, tone=tone)
