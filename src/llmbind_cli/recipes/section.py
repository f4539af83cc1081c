"""What every table of a recipe has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Strict

# TOML has no paths, so these are converted, and nothing else is.
FilePath = Annotated[Path, Strict(False)]


class Section(BaseModel):
    """One table of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
