"""Pipelines that draw the things of one small world only, and prompts about other things.

What ``tools/embedded_generator`` trains is such a pipeline. Its folder says so in ``prompts.json``,
``{"world": "scenes", "longest": 32}``: the things of :mod:`llmbind_cli.data.scenes`, in captions of
so many tokens at most (where ``longest`` is left out, as many as the tokenizer takes).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from llmbind_cli.console import console
from llmbind_cli.errors import ConfigurationError

PROMPTS = "prompts.json"
_SHOWN = 6
"""Most unknown words that are listed."""


class SmallWorld(BaseModel):
    """What the prompts of a pipeline are confined to.

    Attributes:
        world: Its things: those of :mod:`llmbind_cli.data.scenes`.
        longest: Tokens of the longest prompt, start and end included; ``None`` leaves it to the
            tokenizer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    world: Literal["scenes"]
    longest: PositiveInt | None = None


def read_small_world(folder: Path) -> SmallWorld | None:
    """Return the world that a pipeline's prompts are confined to, or ``None``.

    Raises:
        ConfigurationError: ``prompts.json`` has another form or names another world.
    """
    path = folder / PROMPTS
    if not path.is_file():
        return None
    try:
        return SmallWorld.model_validate_json(path.read_bytes())
    except ValidationError as error:
        faults = "; ".join(
            ": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in error.errors()
        )
        raise ConfigurationError(f"{path}: {faults}") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error})") from error


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
