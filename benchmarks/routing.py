"""How often a bundle picks the right task, and how much of the request its prompt keeps.

Runs `llmbind generate --plan` on requests that carry their task, and scores what it prints:

    python benchmarks/routing.py [tests/data/requests.jsonl] [--model BUNDLE] [--report FILE.json]

A request is routed rightly when its reply makes exactly the expected calls in their order: one
call of its `task` (none for `text`), or those of its `tasks`. A false call is a call on plain
talk. A content word is kept when it stands in the written prompt, compared without case and with
plural and verb endings taken off; only rightly routed requests that list such words count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).parents[1] / "tests" / "data" / "requests.jsonl"
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


def stem(word: str) -> str:
    """Return a word without case and without one common ending."""
    word = word.lower()
    return _ENDING.sub("", word) if len(word) > 4 else word.removesuffix("s")


def words_of(text: str) -> set[str]:
    """Return the stems of all words of a text; a hyphen separates words."""
    return {stem(word) for word in re.findall(r"[\w']+", text.lower())}


def score(requests: list[dict[str, Any]], lines: list[dict[str, Any]]) -> RoutingScore:
    """Compare the plans with what the requests expect.

    Args:
        requests: Rows with ``id``, and either ``task`` and ``keep`` (the content words of its
            call) or ``tasks`` and a list of content words for each.
        lines: Result lines of ``--plan``; several of one id are its calls in order.
    """
    calls: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        calls.setdefault(line["id"], []).append(line)
    confusion: Counter[tuple[str, str]] = Counter()
    wrong, kept, asked, whole, media = [], 0, 0, 0, 0
    for request in requests:
        plan = calls[request["id"]]
        got = "+".join(line["task"] if line["status"] == "ok" else "error" for line in plan)
        expected = "+".join(request.get("tasks", [request.get("task")])) or "text"
        confusion[expected, got] += 1
        if got != expected:
            wrong.append(request["id"])
            continue
        keep = request["keep"] if "tasks" in request else [request["keep"]]
        for line, words in zip(plan, keep, strict=False):
            if words:
                written = words_of(line["prompt"])
                found = sum(words_of(word) <= written for word in words)
                kept, asked = kept + found, asked + len(words)
                whole, media = whole + (found == len(words)), media + 1
    talk = [(got, n) for (task, got), n in confusion.items() if task == "text"]
    return RoutingScore(
        n=len(requests),
        accuracy=1 - len(wrong) / len(requests),
        false_calls=sum(n for got, n in talk if got != "text") / max(1, sum(n for _, n in talk)),
        words_kept=kept / max(1, asked),
        prompts_whole=whole / max(1, media),
        confusion=dict(confusion),
        wrong=wrong,
    )


def plan(requests: Path, options: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Run the shipped command; return its lines and the seconds it took."""
    command = [sys.executable, "-m", "llmbind_cli", "generate", "--plan", "--json", *options]
    started = time.monotonic()
    run = subprocess.run(  # noqa: S603
        [*command, "--from", str(requests)], stdout=subprocess.PIPE, text=True, check=False
    )
    if run.returncode not in (0, 3):
        sys.exit(f"{' '.join(command)} ended with {run.returncode}")
    seconds = time.monotonic() - started
    return [json.loads(line) for line in run.stdout.splitlines()], seconds


def show(result: RoutingScore) -> str:
    """Return the figures and the confusion table as text."""
    columns, expected = (
        sorted({pair[side] for pair in result.confusion}, key=lambda g: (g not in TASKS, g))
        for side in (1, 0)
    )
    rows = [f"{'expected / got':16}" + "".join(f"{column:>13}" for column in columns)]
    for task in expected:
        counts = [result.confusion.get((task, column), 0) for column in columns]
        rows.append(f"{task:16}" + "".join(f"{count:13}" for count in counts))
    return "\n".join(
        [
            *rows,
            f"routed rightly   {result.accuracy:.1%} of {result.n}",
            f"false calls      {result.false_calls:.1%} of plain talk",
            f"words kept       {result.words_kept:.1%}",
            f"prompts whole    {result.prompts_whole:.1%}",
        ]
    )


def main() -> None:
    """Plan, score, print; with ``--report`` also write the figures with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requests", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--batch-size", default="8")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    content = args.requests.read_bytes()
    requests = [json.loads(line) for line in content.splitlines() if line.strip()]
    lines, seconds = plan(args.requests, ["--model", args.model, "--batch-size", args.batch_size])
    result = score(requests, lines)
    print(show(result))
    print(f"{seconds:.0f} s; wrong: {' '.join(result.wrong) or 'none'}")
    if args.report:
        fields = vars(result) | {
            "confusion": {f"{task} > {got}": n for (task, got), n in result.confusion.items()},
            "data": {"name": args.requests.name, "sha256": hashlib.sha256(content).hexdigest()},
            "model": next((line["model"] for line in lines if line["model"]), ""),
            "seed": 0,
            "command": f"python benchmarks/routing.py tests/data/{args.requests.name}",
        }
        args.report.write_text(json.dumps(fields, indent=2) + "\n")


if __name__ == "__main__":
    main()
