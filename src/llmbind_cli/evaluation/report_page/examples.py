"""The worst and the best items of a scoring, as small pictures in the page itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from llmbind_cli.errors import LlmbindError
from llmbind_cli.evaluation.scores import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

SHOWN = 6
"""Items at either end."""

SIDE_PX = 192
LONGEST_WORDS = 600
BUDGET_BYTES = 3_000_000
"""What the pictures of one page may take, before they are written as base64."""


class PictureBudget:
    """How many bytes of pictures a page may still take."""

    def __init__(self) -> None:
        self.left = BUDGET_BYTES

    def data_uri(self, picture: Image) -> str | None:
        """Return a small copy of a picture as a data URI; ``None`` where there is no room."""
        small = picture.copy()
        small.thumbnail((SIDE_PX, SIDE_PX))
        stream = io.BytesIO()
        if picture.mode == "L" or len(small.getcolors(maxcolors=65536) or ()) in range(1, 257):
            kind = "png"
            small.save(stream, "PNG", optimize=True)
        else:
            kind = "jpeg"
            small.convert("RGB").save(stream, "JPEG", quality=82)
        content = stream.getvalue()
        if len(content) > self.left:
            return None
        self.left -= len(content)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def ends(
    rows: Sequence[dict[str, Any]], column: str, *, higher_is_better: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Give the worst and the best items, each end with the extreme one first.

    Args:
        rows: Items.
        column: By which they are ranked; rows without a number there are left out.
        higher_is_better: Its direction.
    """
    ranked = [row for row in rows if is_number(row.get(column))]
    ranked.sort(key=lambda row: (row[column], row["id"]), reverse=not higher_is_better)
    count = min(SHOWN, math.ceil(len(ranked) / 2))
    return ranked[:count], ranked[::-1][: min(count, len(ranked) - count)]


def gallery(
    rows: Sequence[dict[str, Any]],
    column: str,
    show: Callable[[str], list[Panel]],
    budget: PictureBudget,
) -> str:
    """Return the cards of some items."""
    return (
        f'<div class="examples">{"".join(_card(row, column, show, budget) for row in rows)}</div>'
    )


def is_number(value: Any) -> bool:
    """Whether a value of an item is a finite number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _card(
    row: dict[str, Any],
    column: str,
    show: Callable[[str], list[Panel]],
    budget: PictureBudget,
) -> str:
    try:
        panels = "".join(_panel(panel, budget) for panel in show(row["id"]))
    except (LlmbindError, OSError) as error:  # a file that is gone since must not cost the report
        panels = f"<p>cannot be shown: {escape(str(error))}</p>"
    words = f"{row[column]:.4g}" if is_number(row.get(column)) else str(row.get(column))
    return (
        f"<article><h4>{escape(row['id'])}</h4>"
        f'<p class="faint">{escape(column)} {escape(words)}</p>'
        f'<div class="panels">{panels}</div></article>'
    )


def _panel(panel: Panel, budget: PictureBudget) -> str:
    caption = escape(panel.caption)
    if panel.picture is None:
        text = panel.words
        cut = f"{text[:LONGEST_WORDS]} …" if len(text) > LONGEST_WORDS else text
        return f'<div class="words"><p class="faint">{caption}</p><p>{escape(cut)}</p></div>'
    uri = budget.data_uri(panel.picture)
    shown = f'<img src="{uri}" alt="{caption}">' if uri else "<p>left out: the page is full</p>"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"
