"""Pipelines that draw the things of one small world only, and prompts about other things.

What ``tools/embedded_generator`` trains is such a pipeline. Its folder says so in ``prompts.json``:
``{"world": "scenes"}``, the things of :mod:`llmbind_cli.data.scenes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from llmbind_cli.console import console
from llmbind_cli.errors import ConfigurationError

PROMPTS = "prompts.json"
WORLDS = ("scenes",)
_SHOWN = 6
"""Most unknown words that are listed."""


def read_world(folder: Path) -> str | None:
    """Return the world that a pipeline's prompts are confined to, or ``None``.

    Raises:
        ConfigurationError: ``prompts.json`` has another form or names another world.
    """
    path = folder / PROMPTS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or content.keys() != {"world"}:
        raise ConfigurationError(f'{path}: holds {{"world": NAME}}, no more and no less')
    if content["world"] not in WORLDS:
        raise ConfigurationError(
            f"{path}: world must be one of {', '.join(WORLDS)}, got {content['world']!r}"
        )
    return str(content["world"])


def reword(prompt: str, *, name: str, fits: Callable[[str], bool]) -> str:
    """Return the part of a prompt that the world of scenes knows, and tell what was left out.

    Args:
        prompt: What is asked for.
        name: The generator's, for the line on stderr.
        fits: Tells whether a prompt is short enough for the pipeline.

    Returns:
        The prompt itself where all of it is known and it fits; else the known words, or the things
        alone where these are still too many. The prompt itself, too, where it names no known thing:
        what is drawn then is chance.
    """
    from llmbind_cli.data.scenes.coverage import nearest

    found = nearest(prompt)
    if not found.things:
        console.log(
            f"{name} knows nothing of what {prompt!r} names, so the picture is left to chance; "
            f"{_BIGGER}"
        )
        return prompt
    if not found.unknown and fits(prompt):
        return prompt
    drawn = next((text for text in (found.known, found.essence) if fits(text)), None)
    if drawn is None:
        drawn = " and ".join(thing.name for thing in found.things[:3])
    left_out = ", ".join(found.unknown[:_SHOWN]) + (", …" if len(found.unknown) > _SHOWN else "")
    reason = f"does not know: {left_out}" if left_out else "takes shorter prompts"
    console.log(f"{name} {reason}; it draws {drawn!r}; {_BIGGER}")
    return drawn


_BIGGER = "a bigger model draws more: --generator image=PATH_OR_ID"
