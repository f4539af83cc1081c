"""The gallery's page: one ``index.html`` without scripts, beside the files that it shows.

Pictures, clips and sounds are linked by their names in the folder, so the page is small however
many there are, and folder and page move together. Everything else, the style included, stands in
the page: it opens from a disk, without a network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from llmbind_cli.gallery.cards import Card, CardFile, read_cards
from llmbind_cli.pages import html_page
from llmbind_cli.weights.atomic import write_atomically

PAGE = "index.html"

_NOUNS = {"image": "pictures", "edit": "edits", "video": "clips", "audio": "sounds",
          "segment": "masks", "text": "words only"}  # fmt: skip
# Nothing may be loaded but the files of the folder; the style is the page's own.
_POLICY = (
    "default-src 'none'; img-src 'self' file:; media-src 'self' file:; style-src 'unsafe-inline'"
)


def write_gallery(folder: Path) -> Path:
    """Write a page of all results of an output folder into it.

    Args:
        folder: A folder with a manifest; those of shards count as one.

    Returns:
        The page, ``index.html`` in the folder. An earlier one is replaced.

    Raises:
        InputDataError: The folder has no manifest.
        OutputError: The page cannot be written.
        StorageError: The disk is full or failing.
    """
    page = folder / PAGE
    text = gallery_page(read_cards(folder), title=folder.resolve().name)
    write_atomically(page, lambda stream: stream.write(text.encode("utf-8", "replace")))
    return page


def gallery_page(cards: Sequence[Card], *, title: str) -> str:
    """Return the page.

    Args:
        cards: The results, in the order in which they are to stand.
        title: Name of the folder.
    """
    groups = Counter(_group(card) for card in cards)
    style = (resources.files(__package__) / "gallery.css").read_text(encoding="utf-8")
    filters = "".join(_filter(group, count) for group, count in groups.items())
    if len(groups) > 1:
        rules = "".join(_rule(group) for group in groups)
        choices = (
            '<fieldset class="filters"><legend>Show</legend>'
            f'<label><input type="radio" name="show" id="show-all" checked> all '
            f"<span>{len(cards)}</span></label>{filters}</fieldset>"
        )
    else:
        rules, choices = "", ""
    shown = "\n".join(_article(card) for card in cards)
    body = f"""<header>
<h1>{escape(title)}</h1>
<p>{escape(_count(cards))}</p>
{choices}
</header>
<main>
{shown or '<p class="nothing">Nothing was made yet.</p>'}
</main>"""
    return html_page(title=title, policy=_POLICY, style=f"{style}{rules}", body=body)


def _group(card: Card) -> str:
    """Return the filter that a result falls under; a failure is looked for as such."""
    if card.status == "failed":
        return "failed"
    return card.task if card.task in _NOUNS else "other"


def _filter(group: str, count: int) -> str:
    name = _NOUNS.get(group, group)
    return (
        f'<label><input type="radio" name="show" id="show-{group}"> {name} '
        f"<span>{count}</span></label>"
    )


def _rule(group: str) -> str:
    return f"body:has(#show-{group}:checked) article:not(.{group}) {{ display: none; }}\n"


def _count(cards: Sequence[Card]) -> str:
    results = "1 result" if len(cards) == 1 else f"{len(cards)} results"
    failed = sum(card.status == "failed" for card in cards)
    return f"{results}, {failed} failed" if failed else results


def _article(card: Card) -> str:
    media = "".join(_media(file, card) for file in card.files)
    heading = escape(card.prompt or card.reply or card.id)
    error = ""
    if card.error is not None:
        tone = "error" if card.status == "failed" else "note"
        error = f'<p class="{tone}">{escape(card.error)}</p>'
    reply = ""
    if card.reply and card.reply != card.prompt and card.prompt:
        shown = "" if card.files else " open"  # then the reply is all that was made
        reply = f"<details{shown}><summary>Reply</summary><p>{escape(card.reply)}</p></details>"
    facts = {"id": card.id, "task": card.task, "seed": card.seed, "model": card.model}
    listed = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    return (
        f'<article class="{_group(card)}">{media}<div class="words"><h2>{heading}</h2>'
        f"{error}{reply}<dl>{listed}</dl></div></article>"
    )


def _media(file: CardFile, card: Card) -> str:
    name, link = escape(file.name), quote(file.name)
    if not file.exists:
        return f'<p class="missing">{name} is gone</p>'
    label = escape(card.prompt or file.name)
    kind = file.media_type.partition("/")[0]
    if kind == "image":
        return f'<a class="media" href="{link}"><img src="{link}" alt="{label}" loading="lazy"></a>'
    if kind == "video":
        return (
            f'<div class="media"><video src="{link}" controls loop muted playsinline '
            f'preload="metadata" aria-label="{label}"></video></div>'
        )
    if kind == "audio":
        return (
            f'<div class="media sound"><audio src="{link}" controls preload="metadata" '
            f'aria-label="{label}"></audio></div>'
        )
    return f'<p class="missing"><a href="{link}">{name}</a></p>'
