"""The words of captions, in the builder's template grammar."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from llmbind_cli.data.dialogues.grammar import PhraseBank
from llmbind_cli.data.scenes.graph import Side

WORDING: dict[str, list[str]] = {
    "left of": [
        "{a} [to the|on the|] left of {b}",
        "{b} [to the|on the|] right of {a}",
        "{a} on the left[ and|,] {b} on the right",
        "{a} on the left side, {b} on the right side",
        "{b} with {a} on [its|the] left",
        "{a} at the left, {b} at the right",
    ],
    "above": [
        "{a} above {b}",
        "{b} [below|under|underneath|beneath] {a}",
        "{a} over {b}",
        "{a} on top of {b}",
        "{a} at the top[ and|,] {b} at the bottom",
        "{b} with {a} above it",
    ],
    "across": [
        "{a} next to {b}",
        "{a} beside {b}",
        "{a} and {b} side by side",
        "{a} by the side of {b}",
        "{a} near {b}",
    ],
    "together": [
        "{a} and {b}",
        "{a} with {b}",
        "{a}, {b}",
        "{a} together with {b}",
        "{a} and also {b}",
        "{a} plus {b}",
    ],
    "row": [
        "{a} on the left, {b} in the middle and {c} on the right",
        "{b} between {a} and {c}",
        "{a}, then {b}, then {c} from left to right",
        "{a}, {b} and {c} in a row",
    ],
    "three": [
        "{a}, {b} and {c}",
        "{a}, {b}, and {c}",
        "{a} with {b} and {c}",
        "{a} and {b} and {c}",
        "{a} next to {b} and {c}",
        "{a}, {b}, {c}",
    ],
    "opening": [
        "@[|simple |cute |small |nice |colourful ][picture|image|drawing|illustration] of {x}",
        "@[cartoon|painting|photo|sketch|sticker|icon|emoji|clip art picture|portrait] of {x}",
        "[picture|image|drawing|illustration|photo|emoji|icon|close-up] of {x}",
        "@[cartoon|pixel art|watercolour|digital|vector|flat] "
        "[picture|illustration|drawing|image] of {x}",
        "[draw|paint|show|make|show me|draw me] {x}",
    ],
    "sentence": [
        "there is {x}",
        "the [picture|image|scene] shows {x}",
        "we see {x}",
        "{x} can be seen",
        "it shows {x}",
    ],
    "small": ["small | small | little | tiny | mini | miniature"],
    "large": ["big | big | large | huge | giant"],
    "living": [
        "cute | happy | sleepy | grumpy | friendly | young | old | funny | lovely | curious",
        "proud | cheerful | smiling | brave | shy | beautiful | lonely | adorable | clumsy",
    ],
    "edible": ["fresh | delicious | tasty | yummy | homemade | perfect | lovely | ripe"],
    "object": [
        "shiny | old | new | simple | beautiful | lovely | nice | modern | classic | vintage",
        "cute | clean | worn | fancy | plain | single | lonely | cartoon | toy-like",
    ],
    "action": [
        "standing | sitting | resting | waiting | smiling | sleeping | running | walking",
        "jumping | playing | dancing | looking at the viewer | looking up | looking surprised",
        "taking a nap | on a sunny day | having fun | in a good mood | all alone | on the move",
        "looking into the camera | strolling along | daydreaming | on an adventure",
    ],
    "style": [
        "cartoon style | cartoon | emoji style | emoji | flat vector | vector art | simple",
        "minimalist | cute style | pixel art | watercolour | watercolor painting | oil painting",
        "pencil sketch | pencil drawing | ink drawing | line art | comic book style | doodle",
        "children's book illustration | picture book style | storybook illustration",
        "soft light | soft lighting | studio lighting | dramatic lighting | warm light",
        "soft shadows | bright | vivid | pastel | bold outlines | clean lines | high detail",
        "highly detailed | detailed | 4k | sharp focus | digital art | concept art | clip art",
        "sticker design | sticker | icon | logo style | close-up | close up | centred | centered",
        "wide shot | isometric view | low poly | 3d render | photorealistic | realistic photo",
        "photo | photograph | vintage poster style | retro style | linocut | woodcut | mosaic",
        "stained glass style | paper cut-out style | crayon drawing | chalk drawing | anime style",
        "japanese print style | impressionist style | pop art | kawaii | playful | cheerful mood",
        "moody | calm mood | hand-drawn | charcoal | gouache | felt | claymation style",
    ],
    "grass": [
        "on the grass | on grass | in a meadow | on a green meadow | in a field | in the park",
        "on a lawn | in the garden | in the countryside | on a green hill",
    ],
    "sea": [
        "in the sea | on the sea | by the sea | in the water | on the water | in the ocean",
        "in front of the sea | at sea | on a lake",
    ],
    "sky": [
        "in the sky | against a blue sky | in the clouds | in the air | above the clouds",
        "with a cloudy sky behind | in front of a blue sky",
    ],
    "night": [
        "at night | under a starry sky | in the night sky | under the stars | in space",
        "on a starry night | in the dark | with stars in the background",
    ],
    "sand": [
        "on the sand | on the beach | at the beach | in the desert | on a sandy beach",
        "on desert sand",
    ],
    "snow": [
        "in the snow | on the snow | in winter | in a snowy field | in a winter landscape",
        "on snowy ground",
    ],
    "room": [
        "in a room | in the room | on the floor | indoors | at home | in the living room",
        "in the kitchen | inside a house | on a wooden floor | in the bedroom",
    ],
    "sunset": [
        "at sunset | at dusk | at dawn | in the evening | against a sunset sky | at sunrise",
        "with a sunset in the background",
    ],
    "street": [
        "on the street | on the road | on a road | in the street | in the city | in town",
        "on a street",
    ],
    "plain": [
        "on @{tone} background",
        "against @{tone} background",
        "in front of @{tone} wall",
        "on {tone}",
        ", {tone} background",
        ", plain {tone} background",
        ", {tone} backdrop",
    ],
    "white": [
        "on @white background | , white background | on white | , plain white background",
        ", isolated on white | , plain background | , simple background | , no background",
    ],
    "top left": ["in the [top|upper] left corner | in the top left | at the upper left"],
    "top right": ["in the [top|upper] right corner | in the top right | at the upper right"],
    "bottom left": ["in the [bottom|lower] left corner | in the bottom left"],
    "bottom right": ["in the [bottom|lower] right corner | in the bottom right"],
    "left": ["on the left | on the left side | at the left edge | to the left"],
    "right": ["on the right | on the right side | at the right edge | to the right"],
    "top": ["at the top | in the upper half | at the top edge | up high"],
    "bottom": ["at the bottom | in the lower half | at the bottom edge | down low"],
}
"""Sections of templates; some carry the name of a background, side or size."""

BANK = PhraseBank(
    {
        name: [phrase for line in lines for phrase in line.split(" | ")]
        for name, lines in WORDING.items()
    }
)
"""The sections, ready to be drawn from; outside of brackets, " | " parts two templates."""

_STYLES = ("small", "large", "living", "edible", "object", "action", "style")
_PLACES = ("grass", "sea", "sky", "night", "sand", "snow", "room", "sunset", "street")


@functools.cache
def fixed_phrases() -> frozenset[str]:
    """Return the phrases that tell a style, mood, size or place and name no thing."""
    return frozenset(_phrases(*_STYLES, *_PLACES))


def place_words() -> frozenset[str]:
    """Return the single words of the phrases that tell a background."""
    return frozenset(word for phrase in _phrases(*_PLACES) for word in phrase.split())


def _phrases(*sections: str) -> list[str]:
    lines = (line for section in sections for line in WORDING[section])
    return [phrase for line in lines for phrase in line.split(" | ")]


LIVING = frozenset({"animal", "person", "creature"})
"""Categories whose things can be in a mood and do something."""

EDIBLE = frozenset({"food", "drink"})

OPPOSITE: Mapping[Side, Side] = MappingProxyType({"right of": "left of", "below": "above"})
"""Sides that have no wording of their own: they are told from the other thing's side."""
