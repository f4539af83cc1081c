"""Teach the text encoder to plan: to say, from the words alone, what stands where.

The text encoder reads from left to right, so the positions that pad a caption see all of it. In the
last of them it writes a plan of the picture: one token for each place of a 4 × 4 grid, whose first
numbers are the latents of that place and which place it is. The denoiser then looks up what is to
be where, as in layout-grounded generation (UnifiedMLLM, arXiv 2408.02503), and need not find it in
the words.

Notation: B captions, L positions, W width of the text encoder, C × 8 × 8 latents, P = 4 C + 16
numbers for each place of the plan.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from resumable.optimizers import Optimizers
from resumable.precision import cpu_autocast
from resumable.state import load_state, save_state
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.console import console
from painter.latents import CHANNELS, PatchSpace
from painter.networks import (
    CAPTION_TOKENS,
    PLAN_SIDE,
    PLAN_TOKENS,
    TOKENS,
    WIDTH,
    token_ids,
)
from painter.scenes import SceneBatches

_LATENTS = 4 * CHANNELS
NUMBERS = _LATENTS + PLAN_TOKENS
"""Numbers of a plan's place: P."""

_WHERE = 4.0
"""What marks a place among the last 16 of its numbers; the latents have a deviation of 1."""

LOG_EVERY = 50
SAVE_EVERY = 200
_STATE = "planner.pt"


def plan_in(states: Tensor) -> Tensor:
    """Read the plan in a text encoder's states: [B, L, W] → [B, 16, P]."""
    return states[:, CAPTION_TOKENS:, :NUMBERS]


def plan_of(latents: Tensor) -> Tensor:
    """Return the plan of a picture: [B, C, 8, 8] → [B, 16, P]."""
    told = functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)
    where = (_WHERE * torch.eye(PLAN_TOKENS)).to(latents).expand(len(latents), -1, -1)
    return torch.cat([told, where], dim=2)


def latents_of(plan: Tensor) -> Tensor:
    """Return the latents that a plan tells: [B, 16, P] → [B, C, 8, 8]."""
    told = plan[..., :_LATENTS].transpose(1, 2).unflatten(2, (PLAN_SIDE, PLAN_SIDE))
    return functional.pixel_shuffle(told, 2)


def states_with(plan: Tensor) -> Tensor:
    """Return states that hold a plan and nothing else: [B, 16, P] → [B, L, W]."""
    states = plan.new_zeros(len(plan), TOKENS, WIDTH)
    states[:, CAPTION_TOKENS:, :NUMBERS] = plan
    return states


def optimizers_of(text_encoder: Any) -> Optimizers:
    """Return the text encoder's optimizers; its embeddings learn by AdamW."""
    named = text_encoder.named_parameters()
    others = [parameter for name, parameter in named if ".layers." not in name]
    return Optimizers(text_encoder.parameters(), others=others)


def teach_plans(
    text_encoder: Any, tokenizer: Any, space: PatchSpace, batches: SceneBatches, *,
    steps: int, folder: Path, batch_size: int = 64, lr: float = 1e-3,
) -> None:  # fmt: skip
    """Train the text encoder in place. Stopped, the training goes on where it saved last.

    By Muon it came down to the same loss in a third of AdamW's steps.

    Args:
        text_encoder: What learns.
        tokenizer: Its tokenizer.
        space: The latent space.
        batches: Scenes with captions.
        steps: Steps to take.
        folder: Where the state of the training lies.
        batch_size: Scenes a step.
        lr: Highest learning rate; falls to 0 along a half cosine.
    """
    text_encoder.set_attn_implementation("eager")  # see train_denoiser
    text_encoder.train()
    optimizers = optimizers_of(text_encoder)
    parts = {"network": text_encoder, "optimizers": optimizers}
    first = load_state(folder / _STATE, **parts)
    losses: list[float] = []
    for step in range(first, steps):
        rise, fall = min(1.0, (step + 1) / 50), 0.5 * (1 + math.cos(math.pi * step / steps))
        images, captions = batches.plans(step, batch_size)
        with cpu_autocast():
            states = text_encoder(token_ids(tokenizer, captions)).last_hidden_state
        loss = functional.mse_loss(plan_in(states).float(), plan_of(space.encode(images)))
        loss.backward()
        nn.utils.clip_grad_norm_(text_encoder.parameters(), 1.0)
        optimizers.step(lr * rise * fall)
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            console.log(f"plan {step + 1}/{steps}: loss {sum(losses) / len(losses):.4f}")
            losses = []
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(folder / _STATE, step + 1, **parts)
