"""A training dialogue as a person reads it, with the loss mask visible.

Ids that carry loss stand in ⟦…⟧ and task tokens in ‹…›; on a terminal that shows colours they are
green and reversed instead. A task tag that a user typed stays text and gets neither.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmbind_cli.console import coloured
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.tokens import TaskToken, TokenTable

_GREEN = "32"
_REVERSED_GREEN = "7;32"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a dialogue that is treated alike.

    Attributes:
        text: What it says.
        trained: Whether it carries loss.
        task_token: Whether it is one task token.
    """

    text: str
    trained: bool
    task_token: bool = False


def segments_of_ids(
    sample: EncodedSample, tokenizer: Any, table: TokenTable
) -> tuple[Segment, ...]:
    """Cut an encoded sample where the loss mask or a task token begins or ends.

    Args:
        sample: The sample as it trains, so with the frame of the chat template.
        tokenizer: The tokenizer that made it.
        table: The task tokens.
    """
    task_ids = set(table.ids.values())
    marks = [
        (weight > 0, position if index in task_ids else None)
        for position, (index, weight) in enumerate(
            zip(sample.ids, sample.loss_weights, strict=True)
        )
    ]
    segments = []
    stop, before = 0, ""
    for (trained, task_position), run in itertools.groupby(marks):
        stop += len(list(run))
        # What a stretch adds to the text so far: some decoders drop the space a stretch begins with
        text = tokenizer.decode(sample.ids[:stop], clean_up_tokenization_spaces=False)
        piece, before = text[len(before) :], text
        is_task = task_position is not None
        segments.append(Segment(text=piece, trained=trained, task_token=is_task))
    return tuple(segments)


def segments_of_dialogue(dialogue: Dialogue, tokens: Sequence[TaskToken]) -> tuple[Segment, ...]:
    """Cut a dialogue by turns, where no tokenizer is at hand; the template's frame is left out.

    Args:
        dialogue: The dialogue.
        tokens: The task tokens, which count as such in what the assistant says.
    """
    spellings = [re.escape(spelling) for token in tokens for spelling in token.spellings]
    cut = re.compile(f"({'|'.join(spellings)})")
    segments = []
    for turn in dialogue.turns:
        trained = turn.role == "assistant"
        segments.append(Segment(text=f"{turn.role.upper()}: ", trained=False))
        pieces = cut.split(turn.text) if trained else [turn.text]
        segments += [
            Segment(text=piece, trained=trained, task_token=number % 2 == 1)
            for number, piece in enumerate(pieces)
            if piece
        ]
        segments.append(Segment(text="\n", trained=False))
    return tuple(segments[:-1])


def rendered(segments: Sequence[Segment]) -> str:
    """Return the text for stdout: in colour where it shows colours, else with brackets."""
    in_colour = coloured("x", _GREEN, sys.stdout) != "x"
    text = ""
    for trained, run in itertools.groupby(segments, key=lambda segment: segment.trained):
        pieces = "".join(_piece(segment, in_colour=in_colour) for segment in run)
        text += f"⟦{pieces}⟧" if trained and not in_colour else pieces
    return text


def _piece(segment: Segment, *, in_colour: bool) -> str:
    if not in_colour:
        return f"‹{segment.text}›" if segment.task_token else segment.text
    if not segment.trained and not segment.task_token:
        return segment.text
    colour = _REVERSED_GREEN if segment.task_token else _GREEN
    return coloured(segment.text, colour, sys.stdout)
