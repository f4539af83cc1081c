"""``log.jsonl``: one JSON object a line, in the order of the steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmbind_cli.weights.atomic import write_atomically

LOG_NAME = "log.jsonl"


class RunLog:
    """The log of a run, which grows line by line.

    Lines that a killed run wrote after its last checkpoint are dropped, since those steps are
    done again; so is a torn last line.

    Args:
        path: The file; created when missing. ``None`` keeps no log.
        step: Optimizer steps that the run has done.
    """

    def __init__(self, path: Path | None, *, step: int) -> None:
        self._path = path
        if path is not None:
            kept = _lines_up_to(path, step) if path.exists() else []
            write_atomically(path, lambda file: file.write("".join(kept).encode()))

    def holds(self, key: str, *, step: int) -> bool:
        """Tell whether a line of a step has a key."""
        if self._path is None:
            return False
        lines = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        return any(line["step"] == step and key in line for line in lines)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; it has a ``step``."""
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            done = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if line.endswith("\n") and done <= step:
            kept.append(line)
    return kept
