"""Train the judge on other artists' drawings. Stopped, it goes on where it saved last."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from judge.network import JudgeNetwork, pretrained_network
from judge.views import Views
from llmbind_cli.console import console
from llmbind_cli.weights.atomic import write_atomically

FROZEN_BLOCKS = 3
"""Edges and textures stay as ImageNet taught them; half the time goes there if they learn too."""

SAVE_EVERY = 100
LOG_EVERY = 20
_STATE = "run.pt"
_FIRST_BATCHES = 60
_RIDGE = 0.1
_SHARPNESS = 8.0


@dataclass(frozen=True, kw_only=True)
class JudgeTraining:
    """Settings of one run.

    Attributes:
        steps: Number of steps.
        batch_size: Views a step.
        backbone_lr: Highest learning rate of the pretrained layers.
        head_lr: Highest learning rate of the new layer.
        weight_decay: AdamW's.
        warm_up: Steps until the learning rates are reached.
        smoothing: Share of the target that is spread over all things.
        average: Decay of the running average of the weights, which is what is kept.
    """

    steps: int
    batch_size: int = 48
    backbone_lr: float = 4e-4
    head_lr: float = 2e-3
    weight_decay: float = 0.02
    warm_up: int = 60
    smoothing: float = 0.05
    average: float = 0.995

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be ≥ 1, got {self.steps}")

    def share_of_rate(self, step: int) -> float:
        """Return the learning rate's share of its highest: a warm-up, then a half cosine."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        return 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1)))


def train(
    *, views: Views, settings: JudgeTraining, folder: Path, network: JudgeNetwork | None = None
) -> JudgeNetwork:
    """Train, or go on training.

    Args:
        views: What to learn from.
        settings: How.
        folder: Where ``judge.safetensors`` (the averaged weights) and the state of the run lie.
        network: What to start from; the ImageNet backbone with a new head where it is ``None``.

    Returns:
        The network with the averaged weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = not (folder / _STATE).exists()
    if network is None:
        network = pretrained_network(num_things=len(views.drawings))
        if fresh:
            fit_head(network, views)
    for part in (network.stem, *network.blocks[:FROZEN_BLOCKS]):
        part.requires_grad_(requires_grad=False)
    head = list(network.head.parameters())
    backbone = [
        parameter
        for part in (network.blocks[FROZEN_BLOCKS:], network.top)
        for parameter in part.parameters()
    ]
    optimizer = torch.optim.AdamW(
        [
            {"params": backbone, "lr": settings.backbone_lr},
            {"params": head, "lr": settings.head_lr},
        ],
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    average = {name: value.clone() for name, value in network.state_dict().items()}
    names = "\n".join(views.names)
    start = _load(folder, network, optimizer, average, names=names)
    clock, losses, hits = time.monotonic(), [], []
    network.train()
    for step in range(start, settings.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * settings.share_of_rate(step)
        pictures, labels = views.batch(step, settings.batch_size)
        torch.manual_seed(step)  # dropout: a run that went on equals one that was not stopped
        logits = network(pictures)
        loss = functional.cross_entropy(logits, labels, label_smoothing=settings.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(itertools.chain(backbone, head), 2.0)
        optimizer.step()
        decay = min(settings.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        losses.append(float(loss.detach()))
        hits.append(float((logits.detach().argmax(1) == labels).float().mean()))
        if (step + 1) % LOG_EVERY == 0:
            rate = LOG_EVERY * settings.batch_size / (time.monotonic() - clock)
            console.log(
                f"step {step + 1}/{settings.steps}: loss {sum(losses) / len(losses):.3f}, "
                f"top-1 {sum(hits) / len(hits):.3f}, {rate:.0f} views/s"
            )
            clock, losses, hits = time.monotonic(), [], []
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
            _save(folder, step + 1, network, optimizer, average, names=names)
    network.load_state_dict(average)
    return network.eval()


def fit_head(network: JudgeNetwork, views: Views, *, batches: int = _FIRST_BATCHES) -> None:
    """Give a new head the ridge regression from ImageNet's features to the things.

    With hundreds of things a step sees each of them seldom; gradient descent would need many steps
    to come as far.

    Args:
        network: Its head is set.
        views: Where the features come from; batches that training does not see.
        batches: How many batches of 64 are looked at.
    """
    features, targets = [], []
    network.eval()
    with torch.inference_mode():
        for number in range(batches):
            pictures, labels = views.batch(-1 - number, 64)
            features.append(network.features(pictures))
            targets.append(functional.one_hot(labels, network.head.out_features).float())
    seen, wanted = torch.cat(features), torch.cat(targets)
    mean, share = seen.mean(0), wanted.mean(0)
    seen = seen - mean
    gram = seen.T @ seen / len(seen)
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, seen.T @ (wanted - share) / len(seen)).T
    # One-hot targets give small outputs; a softmax over this many things needs larger ones.
    weight *= _SHARPNESS / max(float((seen @ weight.T).amax(1).mean()), 1e-6)
    with torch.no_grad():
        network.head.weight.copy_(weight)
        network.head.bias.copy_(-weight @ mean)


def _save(
    folder: Path,
    step: int,
    network: JudgeNetwork,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    *,
    names: str,
) -> None:
    state = {"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
    state |= {"average": average, "things": names}
    write_atomically(folder / _STATE, lambda file: torch.save(state, file))
    tensors = {name: value.contiguous() for name, value in average.items()}
    write_atomically(
        folder / "judge.safetensors", lambda file: file.write(save(tensors, {"things": names}))
    )


def _load(
    folder: Path,
    network: JudgeNetwork,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    *,
    names: str,
) -> int:
    path = folder / _STATE
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["things"] != names:
        raise ValueError(f"{path}: is a run on other things; train into another folder")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    average.update(state["average"])
    console.log(f"going on at step {state['step']}")
    return int(state["step"])


def load_judge(path: Path, *, names: Sequence[str]) -> JudgeNetwork:
    """Read a trained judge.

    Args:
        path: ``judge.safetensors``.
        names: The things that its outputs shall stand for, in order.

    Raises:
        ValueError: It was not trained on these things.
    """
    with safe_open(path, framework="pt") as file:
        known = (file.metadata() or {}).get("things", "").split("\n")
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if missing := sorted(set(names) - set(known)):
        raise ValueError(f"{path}: does not know {missing[:5]}; train the judge on this world")
    rows = torch.tensor([known.index(name) for name in names])
    state["head.weight"], state["head.bias"] = state["head.weight"][rows], state["head.bias"][rows]
    network = JudgeNetwork(num_things=len(names))
    network.load_state_dict(state)
    return network.to(memory_format=torch.channels_last).eval()
