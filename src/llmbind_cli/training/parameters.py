"""How many parameters a model has, part by part, and how many of them train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.token_rows import attached_rows
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.lora_moe import LoraMoeLinear

PARTS = ("base", "lora_A", "lora_B", "routers", "token_rows")
ADAPTER_PARTS = ("lora_A", "lora_B")
SIGHT_NAMES = {"tower": "vision_tower", "grounding": "grounding_encoder"}
FROZEN_SIGHT = frozenset(SIGHT_NAMES)


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """Parameters of one part of a model.

    Attributes:
        total: All of them; a matrix that two layers share counts once.
        trainable: Those that train.
    """

    total: int
    trainable: int


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters of a binding model.

    Attributes:
        parts: From each of :data:`PARTS` to its count. ``lora_A`` and ``lora_B`` are the experts'
            low-rank matrices, ``base`` is all that the base LLM had before. A model that sees has
            those of its sight as well.
    """

    parts: dict[str, PartCount]

    @property
    def total(self) -> int:
        """Parameters in all."""
        return sum(part.total for part in self.parts.values())

    @property
    def trainable(self) -> int:
        """Parameters that train."""
        return sum(part.trainable for part in self.parts.values())

    @property
    def frozen(self) -> int:
        """Parameters that do not train."""
        return self.total - self.trainable

    @property
    def adapters(self) -> int:
        """Parameters of the experts, A and B together, without routers and token rows."""
        return sum(self.parts[name].total for name in ADAPTER_PARTS)


def count_model(model: BoundModel) -> ParameterCounts:
    """Count the parameters of a model with its sight, if it has one."""
    counts = count_parameters(model.language_model)
    if model.sight is None:
        return counts
    return ParameterCounts(parts=counts.parts | count_sight(model.sight).parts)


def count_parameters(language_model: nn.Module) -> ParameterCounts:
    """Count the parameters of an adapted language model; one on the meta device will do."""
    part_of: dict[int, str] = {}
    for module in language_model.modules():
        if isinstance(module, LoraMoeLinear):
            part_of[id(module.lora_A)] = "lora_A"
            part_of[id(module.lora_B)] = "lora_B"
            part_of[id(module.router.weight)] = "routers"
    part_of |= {id(rows): "token_rows" for rows in attached_rows(language_model).values()}
    counts = {name: [0, 0] for name in PARTS}
    for parameter in language_model.parameters():
        count = counts[part_of.get(id(parameter), "base")]
        count[0] += parameter.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    return ParameterCounts(
        parts={
            name: PartCount(total=total, trainable=trainable)
            for name, (total, trainable) in counts.items()
        }
    )


def count_sight(sight: Sight) -> ParameterCounts:
    """Count the parameters of a model's sight, part by part; one on the meta device will do.

    A network that is tower and grounding encoder at once counts as the tower.
    """
    counts: dict[str, PartCount] = {}
    seen: set[int] = set()
    for name, module in sight.named_children():
        parameters = [p for p in module.parameters() if id(p) not in seen]
        seen.update(map(id, parameters))
        is_frozen = name in FROZEN_SIGHT
        counts[SIGHT_NAMES.get(name, name)] = PartCount(
            total=sum(p.numel() for p in parameters),
            trainable=0 if is_frozen else sum(p.numel() for p in parameters if p.requires_grad),
        )
    return ParameterCounts(parts=counts)


def router_names(language_model: nn.Module) -> list[str]:
    """Name the routers in the order in which a forward pass calls them.

    Returns:
        ``layers.1.gate_proj`` for the router of one linear layer, ``layers.1.mlp`` for one that
        the linear layers of a block share.
    """
    return list(_router_names(language_model))


def _router_names(language_model: nn.Module) -> Iterator[str]:
    seen: set[int] = set()
    for name, module in language_model.named_modules():
        if not isinstance(module, LoraMoeLinear) or id(module.router) in seen:
            continue
        seen.add(id(module.router))
        steps = name.split(".")
        place = next((i for i, step in enumerate(steps) if step.isdigit()), 1)
        layer = steps[max(0, place - 1) : place + 1]
        yield ".".join([*layer, steps[-2] if module.router_is_shared else steps[-1]])
