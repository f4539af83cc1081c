"""Checks a recipe table against the schema and words each error for a reader of the recipe."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llmbind_cli.recipes.dialogue_schema import (
    BuiltDialogues,
    CaptionedModality,
    ConversationFiles,
    WriterSection,
)
from llmbind_cli.recipes.picture_schema import MASKED_KINDS
from llmbind_cli.recipes.schema import Recipe

_RULES = {
    "greater_than": " must be > {gt}",
    "greater_than_equal": " must be ≥ {ge}",
    "less_than": " must be < {lt}",
    "less_than_equal": " must be ≤ {le}",
    "literal_error": " must be {expected}",
    "union_tag_invalid": ".kind must be one of {expected_tags}",
}
_SOURCES: dict[str, type[BaseModel]] = {
    "conversations": ConversationFiles,
    "builder": BuiltDialogues,
    **MASKED_KINDS,
}
_LISTS = (("data",), ("evaluation",))


def check_recipe(table: Mapping[str, Any]) -> tuple[Recipe | None, list[str]]:
    """Checks a whole recipe.

    Args:
        table: The merged recipe, overrides applied.

    Returns:
        The recipe, or ``None``; and one line for each error, empty when there is a recipe.
    """
    try:
        return Recipe.model_validate(table), []
    except ValidationError as error:
        return None, [_describe(details) for details in error.errors(include_url=False)]


def _describe(details: ErrorDetails) -> str:
    location, kind, context = details["loc"], details["type"], details.get("ctx", {})
    if location[-1:] == ("[key]",):
        location, kind = location[:-1], "extra_forbidden"
    # Below a list of sources, and below lora_moe.layers, one step names the member of a union.
    tag = 2 if location[:1] in _LISTS or location[:2] == ("lora_moe", "layers") else None
    key = ".".join(str(step) for place, step in enumerate(location) if place != tag)
    if kind == "extra_forbidden":
        return f"unknown key {key}{_nearest(location)}"
    if kind == "missing":
        return f"{key} is required"
    if kind == "union_tag_not_found":
        return f"{key}.kind is required: one of {', '.join(_SOURCES)}"
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if kind in _RULES:
        got = context["tag"] if kind == "union_tag_invalid" else details["input"]
        return f"{key}{_RULES[kind].format(**context)}, got {got!r}"
    message = re.sub(r"^(Input|String) ", "", details["msg"])
    return f"{key} {message[:1].lower()}{message[1:]}, got {details['input']!r}"


def _section(table: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Returns the table that a key of a table holds, whether it must be there or not."""
    field = table.model_fields.get(key)
    kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _nearest(location: Sequence[int | str]) -> str:
    """Suggests the known key that an unknown one may have meant."""
    table: type[BaseModel] = Recipe
    if location[:1] in _LISTS and len(location) > 2:
        table = WriterSection if "writer" in location[:-1] else _SOURCES[str(location[2])]
    else:
        for step in location[:-1]:
            table = _section(table, str(step)) or table
    captioned = "captions" in location[:-1]
    known = list(get_args(CaptionedModality)) if captioned else list(table.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"
