"""Dialogues of generation and editing, built from a phrase grammar (LLMBind section 3.4)."""

from __future__ import annotations

from llmbind_cli.data.dialogues.builder import build_dialogues

__all__ = ["build_dialogues"]
