"""``report.html``: the report as one page without scripts and without files beside it."""

from __future__ import annotations

from llmbind_cli.evaluation.report_page.page import ScoredFamily, report_page

__all__ = ["ScoredFamily", "report_page"]
