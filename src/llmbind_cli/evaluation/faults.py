"""What is wrong with the inputs of a scoring, collected so that all of it is told at once."""

from __future__ import annotations

from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation import processes

SHOWN = 50
"""How many faults or ids a message lists; the rest is counted."""


class FaultList:
    """Faults found so far.

    Args:
        place: What was read, for the head of the message.
    """

    def __init__(self, *, place: str) -> None:
        self.place = place
        self.faults: list[str] = []

    def add(self, fault: str | Exception) -> None:
        """Note one fault, in one line."""
        self.faults.append(" ".join(str(fault).split()))

    def exchange(self) -> None:
        """Take up the faults that the other processes found."""
        self.faults = [fault for own in processes.exchange(self.faults) for fault in own]

    def raise_if_any(self) -> None:
        """End the scoring if there is any fault.

        Raises:
            InputDataError: Lists the faults; nothing was scored.
        """
        if len(self.faults) == 1:
            raise InputDataError(self.faults[0])
        if self.faults:
            lines = "".join(f"\n  {fault}" for fault in self.faults[:SHOWN])
            rest = len(self.faults) - SHOWN
            more = f"\n  and {rest} more" if rest > 0 else ""
            raise InputDataError(
                f"{self.place}: {len(self.faults)} inputs cannot be scored{lines}{more}"
            )


def listed(ids: list[str]) -> str:
    """Word a list of ids, the first 50 of them."""
    shown = ", ".join(ids[:SHOWN])
    return f"{shown} and {len(ids) - SHOWN} more" if len(ids) > SHOWN else shown
