"""Python's collector of cyclic garbage, kept from searching what imports make.

Importing torch, transformers and peft makes a million objects that stay. Each time their number has
grown by a quarter the collector walks through all of them, in all a sixth of the time until a model
answers.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Context for imports: the collector rests, and leaves out afterwards what they have made."""
    was_enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if was_enabled:
            gc.enable()
