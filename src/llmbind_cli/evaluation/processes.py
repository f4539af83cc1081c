"""The processes of one scoring, as ``torchrun`` starts them, and which items each of them takes.

Without ``torchrun`` there is one process, and nothing of torch is imported here. Every item belongs
to exactly one process: none is scored twice to make the shares even, as distributed samplers do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from llmbind_cli.errors import LlmbindError

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Group:
    rank: int = 0
    count: int = 1


_group = _Group()


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes that ``torchrun`` started, over gloo, until the block ends."""
    global _group  # noqa: PLW0603  as in torch.distributed, the group is the process's own
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield
        return
    from torch import distributed

    distributed.init_process_group("gloo")
    _group = _Group(distributed.get_rank(), distributed.get_world_size())
    try:
        yield
    except LlmbindError as error:
        if is_first():
            raise
        # The first process tells what is wrong; once is enough.
        raise SystemExit(error.exit_code) from error
    finally:
        _group = _Group()
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process writes the report."""
    return _group.rank == 0


def share(items: Sequence[Item]) -> list[Item]:
    """Return the items of this process: all of them where there is one process.

    Args:
        items: The same in every process.
    """
    return list(items[_group.rank :: _group.count])


def gather(found: Sequence[Item]) -> list[Item]:
    """Put together what each process found for the items of its :func:`share`.

    Args:
        found: One entry for each item of the share, in their order.

    Returns:
        One entry for each item, in the order of all items, in every process.
    """
    parts = exchange(list(found))
    total = sum(len(part) for part in parts)
    return [parts[index % len(parts)][index // len(parts)] for index in range(total)]


def exchange(own: Item) -> list[Item]:
    """Return what all processes gave, in the order of their ranks, in every process."""
    if _group.count == 1:
        return [own]
    from torch import distributed

    parts: list[Any] = [None] * _group.count
    distributed.all_gather_object(parts, own)
    return parts
