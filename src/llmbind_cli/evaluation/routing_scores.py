"""Scores of plans: which tasks ``generate --plan --json`` decided on, and with which prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.faults import FaultList, listed
from llmbind_cli.evaluation.media_set import json_lines, require_same_ids
from llmbind_cli.evaluation.scores import FamilyScores, Panel, Score, interval_of
from llmbind_cli.metrics.routing import TASKS, RoutedRequest, route, score_of

_PLAN_FIELDS = ("task", "status", "prompt")


def score_routing(plan: Path, requests: Path, *, seed: int) -> FamilyScores:
    """Score a plan by the requests that it answers.

    Args:
        plan: Lines of ``llmbind generate --plan --json --from REQUESTS``.
        requests: Lines with ``id``, and either ``task`` and ``keep`` or ``tasks`` and ``keep``.
        seed: Of the bootstrap.

    Raises:
        InputDataError: A line is broken, ids differ, or there is no request.
    """
    lines, rows = _read(plan, _check_line), _read(requests, _check_request)
    for path, found in ((plan, lines), (requests, rows)):
        if not found:
            raise InputDataError(f"{path}: holds no line to score")
    ids = [row["id"] for row in rows]
    if twice := [item for item, count in sorted(Counter(ids).items()) if count > 1]:
        raise InputDataError(f"{requests}: several requests share an id: {listed(twice)}")
    require_same_ids(str(plan), (line["id"] for line in lines), str(requests), ids)
    routed = sorted(route(rows, lines), key=lambda request: request.id)
    result = score_of(routed)
    return FamilyScores(
        scores=_figures(routed, seed),
        items=[_item(request) for request in routed],
        preprocessing="words in lower case without one plural or verb ending",
        details={
            "confusion": {
                f"{expected} > {got}": count
                for (expected, got), count in sorted(result.confusion.items())
            },
            "wrong": result.wrong,
        }
        | ({"router_load": load} if (load := _router_load(lines, routed)) else {}),
        show=lambda item: _panels(item, rows, lines),
    )


def _router_load(
    lines: list[dict[str, Any]], routed: list[RoutedRequest]
) -> dict[str, dict[str, list[float]]]:
    """Mean over the requests of each task of the loads that their plans tell, router by router.

    A line may have ``router_load``: router → share of its tokens whose first choice each expert is.
    """
    expected = {request.id: request.expected for request in routed}
    found: dict[str, dict[str, list[list[float]]]] = {}
    seen = set()
    for line in lines:
        if not isinstance(line.get("router_load"), dict) or line["id"] in seen:
            continue
        seen.add(line["id"])
        for router, shares in line["router_load"].items():
            found.setdefault(expected[line["id"]], {}).setdefault(router, []).append(shares)
    return {
        task: {
            router: [sum(column) / len(column) for column in zip(*rows, strict=True)]
            for router, rows in routers.items()
        }
        for task, routers in sorted(found.items())
    }


def _panels(item: str, rows: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[Panel]:
    asked = next((row for row in rows if row["id"] == item), {})
    calls = [f"{line['task']}: {line['prompt']}" for line in lines if line["id"] == item]
    return [
        Panel(caption="request", words=str(asked.get("prompt", ""))),
        Panel(caption="made", words="\n".join(calls)),
    ]


def _figures(routed: list[RoutedRequest], seed: int) -> dict[str, Score]:
    """The figures that have items: there may be no plain talk, and no content words."""
    result = score_of(routed)
    right = [request.is_right for request in routed]
    scores = {
        "routing": Score(
            value=result.accuracy, n=len(right), interval=interval_of(right, seed=seed)
        )
    }
    calls = [request.got != "text" for request in routed if request.expected == "text"]
    if calls:
        interval = interval_of(calls, seed=seed)
        scores["false_calls"] = Score(value=result.false_calls, n=len(calls), interval=interval)
    kept = [count for request in routed for count in request.words_kept]
    asked = [count for request in routed for count in request.words_asked]
    if asked:
        whole = [found == count for found, count in zip(kept, asked, strict=True)]
        scores["words_kept"] = Score(
            value=result.words_kept,
            n=sum(asked),
            interval=interval_of(kept, asked, seed=seed),
        )
        scores["prompts_whole"] = Score(
            value=result.prompts_whole,
            n=len(whole),
            interval=interval_of(whole, seed=seed),
        )
    return scores


def _item(request: RoutedRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "expected": request.expected,
        "got": request.got,
        "words_kept": list(request.words_kept),
        "words_asked": list(request.words_asked),
    }


def _read(path: Path, check: Callable[[dict[str, Any]], str | None]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputDataError(f"{path}: routing is scored from a file of JSON lines")
    faults = FaultList(place=str(path))
    rows = []
    for place, fields in json_lines(path):
        if (problem := check(fields)) is not None:
            faults.add(f"{place}: {fields['id']}: {problem}")
        rows.append(fields)
    faults.raise_if_any()
    return rows


def _check_line(line: Mapping[str, Any]) -> str | None:
    missing = [name for name in _PLAN_FIELDS if not isinstance(line.get(name), str)]
    return f"no {', no '.join(missing)}: this is no line of --plan" if missing else None


def _check_request(request: Mapping[str, Any]) -> str | None:
    keep = request.get("keep")
    if "tasks" in request:
        tasks, keeps = request["tasks"], keep
        fits = isinstance(tasks, list) and isinstance(keep, list) and len(keep) == len(tasks)
    else:
        tasks, keeps, fits = [request.get("task")], [keep], True
    if not fits or not all(_is_words(words) for words in keeps or []):
        return "keep must list the content words of the task, or of each of its tasks"
    known = all(task in TASKS for task in tasks)
    return None if known else f"task must be one of {', '.join(TASKS)}"


def _is_words(words: Any) -> bool:
    return isinstance(words, list) and all(isinstance(word, str) for word in words)
