"""What the HTML pages have in common: their frame and their base stylesheet."""

from __future__ import annotations

from llmbind_cli.pages.html_page import html_page

__all__ = ["html_page"]
