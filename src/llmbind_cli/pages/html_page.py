"""The frame of a page that stands in one file: no script, and a policy on what it may load."""

from __future__ import annotations

from html import escape
from importlib import resources


def html_page(*, title: str, policy: str, style: str, body: str) -> str:
    """Return a page in the common colours and type, which follow the reader's light or dark.

    Args:
        title: Of the window, as plain text.
        policy: Content security policy, without double quotes.
        style: The page's own rules, which come after those of ``base.css``.
        body: HTML, all that comes from a file escaped.

    Raises:
        ValueError: The policy has double quotes, which would end the attribute that it stands in.
    """
    if '"' in policy:
        raise ValueError(f"policy must have no double quotes, got {policy!r}")
    base = (resources.files(__package__) / "base.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>
{base}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
