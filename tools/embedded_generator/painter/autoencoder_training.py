"""Train the autoencoder: its decoder draws 128 px from latents, its encoder finds them again.

The latents are those of the 64 px picture (`PatchSpace`). The decoder therefore also learns to draw
sharp edges that they only hint at. A little noise on its input keeps what the denoiser leaves over
from smearing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resumable.precision import cpu_autocast
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.console import console
from llmbind_cli.weights.atomic import write_atomically
from painter.latents import PICTURE_PX, PatchSpace
from painter.scenes import SceneBatches

LOG_EVERY = 20
_STATE = "autoencoder.pt"


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """Settings of a training.

    Attributes:
        steps: Steps in all.
        batch_size: Pictures a step.
        encoder_every: The encoder learns in one of so many steps; it is the easier part.
        lr: Highest learning rate.
        decay: Share of the steps, at the end, over which it falls to a fiftieth.
        noise: Largest standard deviation of the noise on the latents, whose own is 1.
        average: Decay of the running average of the weights, which is what is kept.
        save_every: Steps between saved states.
    """

    steps: int
    batch_size: int = 12
    encoder_every: int = 6
    lr: float = 1.5e-3
    decay: float = 0.5
    noise: float = 0.25
    average: float = 0.995
    save_every: int = 100

    def share_of_rate(self, step: int) -> float:
        """Return the learning rate's share of its highest: a rise, a plateau, a linear fall."""
        left = (self.steps - step) / (self.decay * self.steps)
        return max(0.02, min(1.0, left, (step + 1) / 50))


def train_autoencoder(
    vae: Any, space: PatchSpace, batches: SceneBatches, *,
    settings: AutoencoderTraining, folder: Path,
) -> None:  # fmt: skip
    """Train decoder and encoder; their averaged weights stand in them at the end.

    Args:
        vae: An `AutoencoderKL` whose latents have the space's channels.
        space: The latent space.
        batches: Scenes of 128 px.
        settings: How.
        folder: Where the state of the training lies.
    """
    vae.train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.lr, betas=(0.9, 0.99))
    average = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    first, path = 0, folder / _STATE
    if path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], int(state["step"])
        console.log(f"going on at step {first}")
    clock, drawn, found = time.monotonic(), [], []
    for step in range(first, settings.steps):
        optimizer.param_groups[0]["lr"] = settings.lr * settings.share_of_rate(step)
        images = batches.pictures(step, settings.batch_size)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = space.encode(halved(images))
        chance = torch.Generator().manual_seed(step)
        strength = settings.noise * torch.rand(len(images), 1, 1, 1, generator=chance)
        noisy = latents + strength * torch.randn(latents.shape, generator=chance)
        optimizer.zero_grad(set_to_none=True)
        with cpu_autocast():
            guess = vae.decoder(noisy)
        loss = _difference(guess.float(), pixels)
        drawn.append(float(functional.mse_loss(guess.detach().float(), pixels)))
        if step % settings.encoder_every == 0:
            with cpu_autocast():
                mean, log_variance = vae.encoder(pixels).float().chunk(2, dim=1)
            wrong = functional.mse_loss(mean, latents)
            # A variance next to nothing: encoding a picture twice gives the same latents.
            loss = loss + wrong + 0.01 * (log_variance + 12).square().mean()
            found.append(float(wrong.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        decay = min(settings.average, (step + 1) / (step + 10))
        with torch.no_grad():
            names = list(average)
            torch._foreach_lerp_(
                [average[n] for n in names], [vae.state_dict()[n] for n in names], 1 - decay
            )
        if (step + 1) % LOG_EVERY == 0:
            rate = LOG_EVERY * settings.batch_size / (time.monotonic() - clock)
            level = 10 * np.log10(4 / np.mean(drawn))
            console.log(
                f"step {step + 1}/{settings.steps}: decoder {level:.1f} dB, encoder's error "
                f"{np.mean(found):.3f}, {rate:.0f} pictures/s"
            )
            clock, drawn, found = time.monotonic(), [], []
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            state = {
                "step": step + 1,
                "vae": vae.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
            }
            write_atomically(path, lambda file, state=state: torch.save(state, file))
    vae.load_state_dict(average)
    vae.eval()


def halved(images: np.ndarray) -> np.ndarray:
    """Return pictures at the scale of the latents: [B, 128, 128, 3] → [B, 64, 64, 3] uint8."""
    factor = images.shape[1] // PICTURE_PX
    parts = images.reshape(len(images), PICTURE_PX, factor, PICTURE_PX, factor, 3)
    return np.rint(parts.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def _difference(guess: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error of the pixels, and of the steps between neighbours: sharp edges count."""
    error = guess - pixels
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + edges
