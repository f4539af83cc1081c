"""Small random pipelines on disk, each written once however many tests load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmbind_cli.generators.pipeline_folder import quiet_libraries


class SavedPipelines:
    """Folders of pipelines by the name of their class.

    Args:
        root: Where the folders go.
        build: Makes a small random pipeline of a class.
    """

    def __init__(self, root: Path, build: Callable[[str], Any]) -> None:
        self._root, self._build = root, build

    def __call__(self, class_name: str) -> Path:
        """Return the folder of a pipeline of this class."""
        folder = self._root / class_name
        if not folder.exists():
            with quiet_libraries():
                self._build(class_name).save_pretrained(folder)
        return folder
