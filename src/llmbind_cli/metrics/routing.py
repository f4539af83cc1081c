"""How often a bundle picks the right task, and how much of the request its prompt keeps.

A request is routed rightly when its reply makes exactly the expected calls in their order: one
call of its ``task`` (none for ``text``), or those of its ``tasks``. A false call is a call on plain
talk. A content word is kept when it stands in the written prompt, compared without case and with
plural and verb endings taken off; only rightly routed requests that list such words count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TASKS = ("image", "edit", "video", "audio", "text")
_ENDING = re.compile(r"(?:'s|ing|ed|es|s|e)$")


@dataclass(frozen=True, kw_only=True)
class RoutingScore:
    """Figures of one run.

    Attributes:
        n: Requests.
        accuracy: Share routed rightly.
        false_calls: Share of plain-talk requests with a call.
        words_kept: Share of content words that stand in the written prompts.
        prompts_whole: Share of the written prompts of rightly routed requests that keep all words.
        confusion: (expected, got) → count; several calls are joined with ``+``.
        wrong: Ids of the requests routed wrongly.
    """

    n: int
    accuracy: float
    false_calls: float
    words_kept: float
    prompts_whole: float
    confusion: dict[tuple[str, str], int]
    wrong: list[str]


@dataclass(frozen=True, kw_only=True)
class RoutedRequest:
    """What became of one request.

    Attributes:
        id: Of the request.
        expected: Its tasks, joined with ``+``; ``text`` for plain talk.
        got: Those of the plan; ``error`` for a call that failed.
        words_kept: For each prompt of a rightly routed request that lists content words: how many
            of them it keeps.
        words_asked: For each of the same prompts: how many there are.
    """

    id: str
    expected: str
    got: str
    words_kept: tuple[int, ...] = ()
    words_asked: tuple[int, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether exactly the expected calls were made, in their order."""
        return self.expected == self.got


def stem(word: str) -> str:
    """Return a word without case and without one common ending."""
    word = word.lower()
    return _ENDING.sub("", word) if len(word) > 4 else word.removesuffix("s")


def words_of(text: str) -> set[str]:
    """Return the stems of all words of a text; a hyphen separates words."""
    return {stem(word) for word in re.findall(r"[\w']+", text.lower())}


def route(
    requests: Iterable[Mapping[str, Any]], lines: Iterable[Mapping[str, Any]]
) -> list[RoutedRequest]:
    """Compare each plan with what its request expects.

    Args:
        requests: Rows with ``id``, and either ``task`` and ``keep`` (the content words of its
            call) or ``tasks`` and a list of content words for each.
        lines: Result lines of ``--plan``; several of one id are its calls in order.

    Raises:
        KeyError: A request has no plan, or a row lacks a field.
    """
    calls: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        calls.setdefault(line["id"], []).append(line)
    return [_routed(request, calls[request["id"]]) for request in requests]


def _routed(request: Mapping[str, Any], plan: Sequence[Mapping[str, Any]]) -> RoutedRequest:
    got = "+".join(line["task"] if line["status"] == "ok" else "error" for line in plan)
    expected = "+".join(request.get("tasks", [request.get("task")])) or "text"
    kept: list[int] = []
    asked: list[int] = []
    if got == expected:
        keep = request["keep"] if "tasks" in request else [request["keep"]]
        for line, words in zip(plan, keep, strict=False):
            if words:
                written = words_of(line["prompt"])
                kept.append(sum(words_of(word) <= written for word in words))
                asked.append(len(words))
    return RoutedRequest(
        id=request["id"],
        expected=expected,
        got=got,
        words_kept=tuple(kept),
        words_asked=tuple(asked),
    )


def score(
    requests: Iterable[Mapping[str, Any]], lines: Iterable[Mapping[str, Any]]
) -> RoutingScore:
    """Compare the plans with what the requests expect; arguments and errors as for `route`."""
    return score_of(route(requests, lines))


def score_of(routed: Sequence[RoutedRequest]) -> RoutingScore:
    """Give the figures of requests that have been compared already; there is at least one."""
    confusion = Counter((request.expected, request.got) for request in routed)
    wrong = [request.id for request in routed if not request.is_right]
    talk = [request for request in routed if request.expected == "text"]
    kept = [count for request in routed for count in request.words_kept]
    asked = [count for request in routed for count in request.words_asked]
    whole = sum(found == count for found, count in zip(kept, asked, strict=True))
    return RoutingScore(
        n=len(routed),
        accuracy=1 - len(wrong) / len(routed),
        false_calls=sum(request.got != "text" for request in talk) / max(1, len(talk)),
        words_kept=sum(kept) / max(1, sum(asked)),
        prompts_whole=whole / max(1, len(asked)),
        confusion=dict(confusion),
        wrong=wrong,
    )
