"""Shards: several processes, or several machines, share the items of one job."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from llmbind_cli.errors import UsageError

_SPELLING = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One part of a job.

    An item belongs to the shard that the hash of its id picks, so an item's shard changes neither
    with its place in the file nor with what else stands there.

    Attributes:
        index: Which part, from 1.
        count: How many parts there are.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"--shard {self.index}/{self.count}: the first number must lie between 1 and the "
                f"second"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``.

        Raises:
            UsageError: It has another form, or ``i`` is not between 1 and ``n``.
        """
        found = _SPELLING.fullmatch(text)
        if found is None:
            raise UsageError(f"--shard {text}: write i/n, for example 2/8")
        return cls(index=int(found[1]), count=int(found[2]))

    @classmethod
    def all_of(cls, count: int) -> list[Shard]:
        """Return every part of a job that has so many."""
        return [cls(index=index, count=count) for index in range(1, count + 1)]

    @property
    def suffix(self) -> str:
        """What tells this shard's files from those of the others: ``-2-of-8``, or nothing."""
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"

    def takes(self, item_id: str) -> bool:
        """Say whether an item belongs to this part."""
        digest = hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1
