"""Train the text encoder and the denoiser. Stopped, a training goes on where it saved last.

The denoiser first learns to draw what a true plan tells, then both learn together.

Notation: B pictures a step, C × 8 × 8 latents, L ids of a caption, W width of the text encoder.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from resumable.optimizers import Optimizers
from resumable.precision import cpu_autocast
from resumable.state import Average, load_state, save_state
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.console import console
from painter.latents import CHANNELS, SIDE, PatchSpace
from painter.networks import WIDTH, token_ids
from painter.plan import optimizers_of, plan_in, plan_of, states_with
from painter.scenes import SceneBatches

LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining:
    """Settings of a training.

    Attributes:
        steps: Steps in all.
        batch_size: Pictures a step.
        lr: Highest learning rate of the denoiser.
        text_lr: Highest learning rate of the text encoder; 0 leaves it as it is, which is faster.
        warm_up: Steps until the learning rates are reached.
        decay: Share of the steps, at the end, over which they fall to a fiftieth.
        plan_weight: Weight of the plan's error beside the denoiser's.
        plan_noise: Largest standard deviation of the noise on true plans, in place of a text
            encoder's mistakes.
        varied_from: Share of the steps from which pictures vary in what no caption tells. Before,
            they are as planned, which is far easier to learn.
        drop: Share of the captions that are left empty, for guidance without a classifier
            (Ho and Salimans, arXiv 2207.12598).
        noise_bias: Power b of t = 1000 · u^b. Below 1 it draws high noise more often, where the
            words decide what is drawn.
        average: Decay of the running average of the weights, which is what is kept.
        save_every: Steps between saved states.
    """

    steps: int
    batch_size: int = 64
    lr: float = 8e-4
    text_lr: float = 5e-4
    warm_up: int = 100
    decay: float = 0.4
    plan_weight: float = 1.0
    plan_noise: float = 0.6
    varied_from: float = 0.7
    drop: float = 0.1
    noise_bias: float = 0.7
    average: float = 0.998
    save_every: int = 100

    def share_of_rate(self, step: int) -> float:
        """Return the learning rate's share of its highest: a rise, a plateau, a linear fall."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        left = (self.steps - step) / (self.decay * self.steps)
        return max(0.02, min(1.0, left))


class LatentRegressor(nn.Module):
    """Guesses a picture's latents from its caption alone, so that the text encoder learns names.

    Args:
        text_encoder: What is to learn.
    """

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.places = nn.Parameter(torch.randn(SIDE * SIDE, WIDTH) / math.sqrt(WIDTH))
        self.look = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.head = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(),
            nn.Linear(4 * WIDTH, CHANNELS),
        )  # fmt: skip

    def forward(self, ids: Tensor) -> Tensor:
        """Return the guessed latents, [B, C, 8, 8]."""
        words = self.text_encoder(ids).last_hidden_state  # [B, L, W]
        places = self.places.expand(len(ids), -1, -1)
        seen, _ = self.look(places, words, words)
        guess = self.head(places + seen)  # [B, 64, C]
        return guess.transpose(1, 2).unflatten(2, (SIDE, SIDE))


def teach_words(
    text_encoder: Any, tokenizer: Any, space: PatchSpace, batches: SceneBatches, *,
    steps: int, batch_size: int = 64, lr: float = 1e-3,
) -> None:  # fmt: skip
    """Have the text encoder learn what is named, before anything is drawn.

    Args:
        text_encoder: Trained in place.
        tokenizer: Its tokenizer.
        space: The latent space.
        batches: Scenes with captions.
        steps: Steps to take.
        batch_size: Scenes a step.
        lr: Highest learning rate; falls to 0 along a half cosine.
    """
    text_encoder.set_attn_implementation("eager")  # see train_denoiser
    regressor = LatentRegressor(text_encoder).train()
    optimizer = torch.optim.AdamW(regressor.parameters(), lr=lr, betas=(0.9, 0.99))
    losses: list[float] = []
    for step in range(steps):
        rise, fall = min(1.0, (step + 1) / 50), 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = lr * rise * fall
        images, captions = batches.plans(step, batch_size)
        with cpu_autocast():
            guess = regressor(token_ids(tokenizer, captions))
        loss = functional.mse_loss(guess.float(), space.encode(images))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(regressor.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            console.log(f"words {step + 1}/{steps}: loss {sum(losses) / len(losses):.4f}")
            losses = []


def train_denoiser(
    *, unet: Any, text_encoder: Any | None, tokenizer: Any, scheduler: Any, space: PatchSpace,
    batches: SceneBatches, settings: DenoiserTraining, state: Path,
) -> None:  # fmt: skip
    """Train; the averaged weights stand in the networks at the end.

    Args:
        unet: The denoiser.
        text_encoder: Reads the captions and learns with it; ``None`` gives the denoiser true plans.
        tokenizer: Its tokenizer.
        scheduler: Noise schedule, with v-prediction.
        space: The latent space.
        batches: Scenes.
        settings: How.
        state: File of the training's state.
    """
    from diffusers.models.attention_processor import AttnProcessor

    # On a CPU the fused attention's backward pass takes half of a step; the plain one does not.
    unet.set_attn_processor(AttnProcessor())
    networks = nn.ModuleDict({"unet": unet}).train()
    if text_encoder is not None:
        text_encoder.set_attn_implementation("eager")
        networks["text_encoder"] = text_encoder.train().requires_grad_(settings.text_lr > 0)
    optimizers = _optimizers_of(unet, text_encoder if settings.text_lr > 0 else None)
    rates = {"unet": settings.lr, "text_encoder": settings.text_lr}
    average = Average(networks)
    parts = {"networks": networks, "average": average}
    parts |= {f"optimizers of {name}": one for name, one in optimizers.items()}
    first = load_state(state, **parts)
    empty = token_ids(tokenizer, [""])[0]
    signal = scheduler.alphas_cumprod.sqrt()  # [1000]
    noise_level = (1 - scheduler.alphas_cumprod).sqrt()
    clock, losses = time.monotonic(), []
    for step in range(first, settings.steps):
        drawn = batches.batch(
            step, settings.batch_size, varied=step >= settings.varied_from * settings.steps
        )
        chance = torch.Generator().manual_seed(step)
        latents = space.encode(drawn.pictures)  # [B, C, 8, 8]
        plan = plan_of(space.encode(drawn.plans))
        dropped = torch.rand(len(latents), generator=chance) < settings.drop
        noisy, wanted, t = _noised(latents, signal, noise_level, settings.noise_bias, chance)
        if text_encoder is None:
            level = settings.plan_noise * torch.rand(len(plan), 1, 1, generator=chance)
            told = plan + level * torch.randn(plan.shape, generator=chance)
            words = states_with(told * ~dropped[:, None, None])
            plan_error = torch.zeros(())
        else:
            ids = token_ids(tokenizer, drawn.captions)
            ids[dropped] = empty
            with cpu_autocast():
                words = text_encoder(ids).last_hidden_state  # [B, L, W]
            plan_error = functional.mse_loss(plan_in(words)[~dropped].float(), plan[~dropped])
        with cpu_autocast():
            guess = unet(noisy, t, words).sample
        errors = (guess.float() - wanted).square().mean((1, 2, 3))  # [B]
        (errors.mean() + settings.plan_weight * plan_error).backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        for name, one in optimizers.items():
            one.step(rates[name] * settings.share_of_rate(step))
        average.follow(networks, min(settings.average, (step + 1) / (step + 10)))
        losses.append(
            torch.stack([errors[t < 300].mean(), errors[t >= 800].mean(), plan_error]).detach()
        )
        if (step + 1) % LOG_EVERY == 0:
            low, high, plans = torch.stack(losses).nanmean(0).tolist()
            rate = LOG_EVERY * settings.batch_size / (time.monotonic() - clock)
            console.log(
                f"step {step + 1}/{settings.steps}: loss {low:.4f} (t < 300), {high:.4f} "
                f"(t ≥ 800), {plans:.4f} (plan), {rate:.0f} pictures/s"
            )
            clock, losses = time.monotonic(), []
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            save_state(state, step + 1, **parts)
    networks.load_state_dict(average.state_dict())


def _optimizers_of(unet: Any, text_encoder: Any | None) -> dict[str, Optimizers]:
    optimizers = {"unet": Optimizers(unet.parameters())}
    if text_encoder is not None:
        optimizers["text_encoder"] = optimizers_of(text_encoder)
    return optimizers


def _noised(
    latents: Tensor, signal: Tensor, noise_level: Tensor, bias: float, chance: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents at random steps of the noise, the v that is to be predicted, and the steps."""
    count = len(latents)
    # One draw in each of B equal parts of [0, 1): the same law, less scatter between steps.
    u = (torch.arange(count) + torch.rand(count, generator=chance)) / count
    t = (1000 * u**bias).long().clamp(max=999)
    noise = torch.randn(latents.shape, generator=chance)
    a, s = signal[t].view(-1, 1, 1, 1), noise_level[t].view(-1, 1, 1, 1)
    return a * latents + s * noise, a * noise - s * latents, t
