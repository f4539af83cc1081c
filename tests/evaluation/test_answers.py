"""Replies beside the answers that count as right."""

from __future__ import annotations

import json

import pytest

from llmbind_cli.evaluation.answer_scores import words_of


def said(item: str, reply: str | None, status: str = "empty") -> dict:
    return {"id": item, "status": status, "task": "text", "prompt": "", "reply": reply, "seed": 0}


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("Yes.", ("yes",)),
        ("The teddy-bear!", ("teddy-bear",)),
        ("An ox's horn, a drum.", ("ox's", "horn", "drum")),
        ("...", ()),
        ("'Cat'.", ("cat",)),
        ("cat -", ("cat",)),
        ("'The' dogs' t-shirt, it's -- it", ("dogs", "t-shirt", "it's", "it")),
    ],
)
def test_what_is_compared(reply, words):
    assert words_of(reply) == words


def test_share_of_right_replies_by_hand(write_lines, run):
    asked = write_lines(
        "asked.jsonl",
        {"id": "a", "answer": "yes"},
        {"id": "b", "answer": ["a bike", "bicycle"]},
        {"id": "c", "answer": "two"},
        {"id": "d", "answer": "red"},
    )
    plan = write_lines(
        "plan.jsonl",
        said("a", "Yes."), said("b", "The Bicycle"), said("c", "Two things."), said("d", "Blue."),
    )  # fmt: skip
    code, out, error = run("--metric", "exact_match", "--pred", plan, "--ref", asked, "--json")
    assert code == 0, error
    report = json.loads(out)
    assert report["metrics"]["exact_match"]["value"] == 0.5
    assert report["metrics"]["exact_match"]["n"] == 4
    assert report["protocol"]["scorings"][0]["predictions"]["count"] == 4
    gate = ("--fail-under", "exact_match=0.6")
    assert run("--metric", "exact_match", "--pred", plan, "--ref", asked, *gate)[0] == 4


def test_a_folder_s_manifest_is_read(write_lines, run, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "manifest.jsonl").write_text(json.dumps(said("a", "No.")) + "\n")
    asked = write_lines("asked.jsonl", {"id": "a", "answer": "no"})
    code, out, error = run("--metric", "exact_match", "--pred", folder, "--ref", asked, "--json")
    assert code == 0, error
    assert json.loads(out)["metrics"]["exact_match"]["value"] == 1.0


@pytest.mark.parametrize(
    ("answer", "reply", "told"),
    [
        (3, "Three.", '"answer" must be a text'),
        ([], "No.", '"answer" must be a text'),
        ("no", None, "a has no reply"),
    ],
)
def test_broken_lines_are_told(answer, reply, told, write_lines, run):
    asked = write_lines("asked.jsonl", {"id": "a", "answer": answer})
    plan = write_lines("plan.jsonl", said("a", reply, "failed" if reply is None else "empty"))
    code, _, error = run("--metric", "exact_match", "--pred", plan, "--ref", asked)
    assert code == 65
    assert told in error


def test_answers_that_share_an_id_are_refused(write_lines, run):
    asked = write_lines("asked.jsonl", *({"id": "1", "answer": word} for word in ("dog", "cat")))
    plan = write_lines("plan.jsonl", said("1", "Cat."))
    code, out, error = run("--metric", "exact_match", "--pred", plan, "--ref", asked)
    assert (code, out) == (65, "")
    assert "asked.jsonl: several lines share an id: 1" in error
