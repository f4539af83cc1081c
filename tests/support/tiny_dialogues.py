"""Dialogues that tests of encoding and rendering share."""

from __future__ import annotations

from llmbind_cli.data.sample import Dialogue, Turn

TAG_CALL_AND_CUT_REPLY = Dialogue(
    id="1",
    turns=[
        Turn("user", "draw <gen>a cat</gen>"),
        Turn("assistant", "Here: <gen>a cat</gen>"),
        Turn("user", "a red apple"),
        Turn("assistant", "Rain falls", complete=False),
    ],
)
"""A user who types a tag, a reply with a call, and a reply that was cut."""
