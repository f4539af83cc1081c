"""Teach the text encoder what each thing looks like, before anything is drawn.

The hidden state at a name's last token is made to hold, up to a linear map, the latents of the
thing alone in the middle of a picture, in the colour that the words before it say. A denoiser then
need not remember hundreds of things one by one: it learns once how to draw what such a state
describes, wherever and however large it stands.

Notation: B names, L ids, W width of the text encoder, C × 8 × 8 latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from resumable.precision import cpu_autocast
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.console import console
from llmbind_cli.data.dialogues.grammar import finish
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.compose import render
from llmbind_cli.data.scenes.graph import Box, PlacedThing, Scene
from llmbind_cli.data.scenes.sampling import is_held_out_colour
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import Thing, World
from painter.latents import CHANNELS, PICTURE_PX, SIDE, PatchSpace
from painter.networks import WIDTH, token_ids

_BOX = Box(0.125, 0.125, 0.875, 0.875)
"""The place of a single thing in steady scenes."""

_COLOURED, _SYNONYM, _SEVERAL, _SECOND = 0.3, 0.45, 0.15, 0.6
_BEFORE = ("", "", "", "a picture of ", "a drawing of ", "an illustration of ", "photo of ")
_BETWEEN = (
    " and ", " next to ", " with ", ", ", " to the left of ", " to the right of ", " above ",
    " below ", " on top of ", " beside ", " near ", " left of ", " under ", " right of ",
)  # fmt: skip
LOG_EVERY = 50


@dataclass(frozen=True)
class Naming:
    """A caption and the things that it names.

    Attributes:
        caption: The words.
        ends: The same words up to the end of each name.
        looks: Thing and colour of each name.
    """

    caption: str
    ends: tuple[str, ...]
    looks: tuple[tuple[Thing, str | None], ...]


def naming(world: World, rng: Random) -> Naming:
    """Draw a caption of one or two things."""
    text, ends, looks = rng.choice(_BEFORE), [], []
    for number in range(1 + (rng.random() < _SECOND)):
        if number:
            text += rng.choice(_BETWEEN)
        thing = rng.choice(world.things)
        noun = rng.choice(thing.names) if rng.random() < _SYNONYM else thing.noun
        colour = None
        if thing.recolour and rng.random() < _COLOURED:
            colour = rng.choice([c for c in NAMES if not is_held_out_colour(thing, c)])
        if noun.many is not None and rng.random() < _SEVERAL:
            text += noun.counted(rng.choice((2, 3)), colour or "")
        else:
            text += noun.phrase(colour or "")
        ends.append(finish(text))
        looks.append((thing, colour))
    return Naming(finish(text), tuple(ends), tuple(looks))


def teach_names(
    text_encoder: Any, tokenizer: Any, space: PatchSpace, world: World, sprites: Sprites, *,
    steps: int, batch_size: int = 128, lr: float = 2e-3, seed: int = 0,
) -> None:  # fmt: skip
    """Train the text encoder in place.

    Args:
        text_encoder: What learns.
        tokenizer: Its tokenizer.
        space: The latent space.
        world: The things.
        sprites: Their looks.
        steps: Steps to take.
        batch_size: Captions a step.
        lr: Highest learning rate; falls to 0 along a half cosine.
        seed: Decides the captions.
    """
    text_encoder.set_attn_implementation("eager")  # see train_denoiser
    head = nn.Linear(WIDTH, CHANNELS * SIDE * SIDE)
    learning = nn.ModuleList([text_encoder.train(), head])
    optimizer = torch.optim.AdamW(learning.parameters(), lr=lr, betas=(0.9, 0.99))
    drawn: dict[tuple[str, str | None], Tensor] = {}

    def latents_of(thing: Thing, colour: str | None) -> Tensor:
        key = thing.name, colour
        if key not in drawn:
            placed = PlacedThing(thing=thing, box=_BOX, colour=colour)
            picture = render(Scene((placed,)), sprites, PICTURE_PX)[0]
            drawn[key] = space.encode(picture[None])[0].flatten().to(torch.bfloat16)
        return drawn[key]

    losses: list[float] = []
    for step in range(steps):
        rise, fall = min(1.0, (step + 1) / 50), 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = lr * rise * fall
        rng = Random(f"names/{seed}/{step}")
        batch = [naming(world, rng) for _ in range(batch_size)]
        ids = token_ids(tokenizer, [one.caption for one in batch])
        rows = [row for row, one in enumerate(batch) for _ in one.ends]
        lengths = [len(i) for i in tokenizer([end for one in batch for end in one.ends]).input_ids]
        places = [min(length, ids.shape[1]) - 2 for length in lengths]  # before the end of text
        ids = ids[:, : max(places) + 2]
        wanted = torch.stack([latents_of(*look) for one in batch for look in one.looks]).float()
        with cpu_autocast():
            words = text_encoder(ids).last_hidden_state  # [B, L, W]
            guess = head(words[rows, places])
        loss = functional.mse_loss(guess.float(), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            console.log(f"names {step + 1}/{steps}: loss {np.mean(losses):.4f}")
            losses = []
