"""The state of a training on disk, so that a stopped one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmbind_cli.console import console
from llmbind_cli.weights.atomic import write_atomically


def save_state(path: Path, step: int, **parts: Any) -> None:
    """Write the states of networks and optimizers after a step."""
    state = {"step": step, **{name: part.state_dict() for name, part in parts.items()}}
    write_atomically(path, lambda file: torch.save(state, file))


def load_state(path: Path, **parts: Any) -> int:
    """Read into the parts what `save_state` wrote, if it did, and return the step to go on at."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    console.log(f"going on at step {state['step']}")
    return int(state["step"])


class Terms:
    """What a training learns from, as a part of its state: one of other terms does not go on.

    Args:
        told: What it is, by name: numbers, strings and lists of them.
    """

    def __init__(self, **told: Any) -> None:
        self._told = told

    def state_dict(self) -> dict[str, Any]:
        """Return it."""
        return self._told

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare it with that of a saved state.

        Raises:
            SystemExit: It differs.
        """
        names = sorted(self._told.keys() | state)
        if other := [name for name in names if self._told.get(name) != state.get(name)]:
            raise SystemExit(
                f"the state saved there is of a training with other {', '.join(other)}: "
                "name another folder, or remove it"
            )


def take_what_fits(network: nn.Module, earlier: Mapping[str, Tensor]) -> None:
    """Take the weights of an earlier network that have the same name and shape in this one."""
    own = network.state_dict()
    fitting = {n: t for n, t in earlier.items() if n in own and t.shape == own[n].shape}
    network.load_state_dict(own | fitting)
    console.log(f"{len(fitting)} of {len(own)} tensors begin as they were")


class Average:
    """A running average of a network's weights.

    Args:
        network: Whose weights it begins with.
    """

    def __init__(self, network: nn.Module) -> None:
        self._values = {k: value.detach().clone() for k, value in network.state_dict().items()}

    @torch.no_grad()
    def follow(self, network: nn.Module, decay: float) -> None:
        """Move towards the network's weights by 1 − ``decay`` of the distance."""
        state = network.state_dict()
        floats = [name for name, value in self._values.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self._values[name] for name in floats], [state[name] for name in floats], 1 - decay
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights."""
        return self._values

    def load_state_dict(self, values: dict[str, Tensor]) -> None:
        """Take over averaged weights."""
        self._values = dict(values)
