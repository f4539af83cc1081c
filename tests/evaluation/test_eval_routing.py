"""``llmbind eval --metric routing``: plans beside the requests that they answer."""

from __future__ import annotations

import json

import pytest

REQUESTS = [
    {"id": "1", "prompt": "…", "task": "image", "keep": ["red", "foxes"]},
    {"id": "2", "prompt": "…", "task": "audio", "keep": ["rain", "tin"]},
    {"id": "3", "prompt": "…", "task": "text", "keep": []},
    {"id": "4", "prompt": "…", "task": "text", "keep": []},
    {"id": "5", "prompt": "…", "tasks": ["image", "audio"], "keep": [["fox"], ["bark"]]},
]


def call(item, task, prompt="", status="ok"):
    return {"id": item, "status": status, "task": task, "prompt": prompt, "reply": "…"}


PLAN = [
    call("1", "image", "a RED fox"),
    call("2", "audio", "rain on a roof"),
    call("3", "text"),
    call("4", "image", "a wave"),
    call("5", "image", "a fox"), call("5", "audio", "barking"),
]  # fmt: skip


def test_scores_equal_the_count_by_hand(write_lines, run, tmp_path):
    plan, asked = write_lines("plan.jsonl", *PLAN), write_lines("asked.jsonl", *REQUESTS)
    sides = ("--metric", "routing", "--pred", plan, "--ref", asked)
    code, out, _ = run(*sides, "--json", "--report", tmp_path / "r")
    report = json.loads(out)
    figures = {name: (entry["value"], entry["n"]) for name, entry in report["metrics"].items()}
    assert code == 0
    assert figures == {
        "routing": (4 / 5, 5),
        "false_calls": (1 / 2, 2),
        "words_kept": (5 / 6, 6),
        "prompts_whole": (3 / 4, 4),
    }
    assert report["details"]["routing"]["wrong"] == ["4"]
    assert report["details"]["routing"]["confusion"]["text > image"] == 1
    (card,) = report["protocol"]["scorings"]
    assert (card["predictions"]["count"], card["references"]["count"]) == (5, 5)
    assert run(*sides, "--fail-over", "false_calls=0.4")[0] == 4
    assert run(*sides, "--fail-over", "false_calls=0.5", "--fail-under", "routing=0.8")[0] == 0


def test_the_order_of_the_lines_changes_nothing(write_lines, run):
    asked = write_lines("asked.jsonl", *REQUESTS)
    reordered = [*PLAN[2:], *PLAN[:2]]
    outs = [
        json.loads(
            run("--metric", "routing", "--pred", write_lines("p.jsonl", *plan), "--ref", asked,
                "--json")[1]
        )["metrics"]
        for plan in (PLAN, reordered)
    ]  # fmt: skip
    assert outs[0] == outs[1]


def test_figures_without_items_are_left_out(write_lines, run):
    plan, asked = write_lines("p.jsonl", PLAN[2]), write_lines("a.jsonl", REQUESTS[2])
    sides = ("--metric", "routing", "--pred", plan, "--ref", asked)
    code, out, _ = run(*sides, "--json")
    assert code == 0
    assert set(json.loads(out)["metrics"]) == {"routing", "false_calls"}
    assert run(*sides, "--fail-under", "words_kept=0")[0] == 4  # no number keeps no bound


@pytest.mark.parametrize(
    ("plan", "asked", "problem"),
    [
        (PLAN[:-3], REQUESTS, "lacks 2 of the 5 ids of"),
        (PLAN, REQUESTS[1:], "asked.jsonl lacks 1 of the 5 ids"),
        (REQUESTS, REQUESTS, "no line of --plan"),
        (PLAN, [*REQUESTS, REQUESTS[0]], "several requests share an id: 1"),
        (PLAN, [{"id": "1", "task": "smell", "keep": []}], "task must be one of"),
        (PLAN, [{"id": "1", "task": "image"}], "keep must list the content words"),
        (PLAN, [{"id": "1", "tasks": ["image"], "keep": []}], "keep must list"),
        ([], REQUESTS, "holds no line to score"),
    ],
)
def test_what_cannot_be_scored_is_named(write_lines, run, plan, asked, problem):
    sides = (write_lines("plan.jsonl", *plan), "--ref", write_lines("asked.jsonl", *asked))
    code, out, error = run("--metric", "routing", "--pred", *sides)
    assert (code, out) == (65, "")
    assert problem in error


def test_the_project_s_own_requests_are_accepted(root, write_lines, run):
    asked = root / "tests" / "data" / "requests.jsonl"
    rows = [json.loads(line) for line in asked.read_text(encoding="utf-8").splitlines()]
    plan = [
        call(row["id"], task, " ".join(words))
        for row in rows
        for task, words in (
            zip(row["tasks"] or ["text"], row["keep"] or [[]], strict=True)
            if "tasks" in row
            else [(row["task"], row["keep"])]
        )
    ]
    path = write_lines("plan.jsonl", *plan)
    code, out, _ = run("--metric", "routing", "--pred", path, "--ref", asked, "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["routing"]["value"] == 1.0
    assert json.loads(out)["metrics"]["words_kept"]["value"] == 1.0
