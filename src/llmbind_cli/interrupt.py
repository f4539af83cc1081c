"""SIGINT and SIGTERM during a long run: finish the step in hand, save, then stop."""

from __future__ import annotations

import signal
from types import FrameType


class GracefulInterrupt:
    """Context in which the first SIGINT or SIGTERM is only remembered.

    A second SIGINT interrupts at once (faults 45, 46).

    Attributes:
        received: Number of the signal, or ``None``.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> GracefulInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
