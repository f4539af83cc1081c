"""The bundle that comes with the package, on its real base: routing, batches, user tags."""

from __future__ import annotations

import importlib.util
import json

import pytest

from llmbind_cli.inference.planner import Planner
from llmbind_cli.inference.requests import Request, read_requests
from llmbind_cli.model.loader import load_model

ROUTING_BARS = {
    "requests.jsonl": 0.97,
    "hard_requests.jsonl": 0.83,
    "unseen_requests.jsonl": 0.88,
    "fresh_requests.jsonl": 0.92,
}
"""Share of the held-out requests that must be routed rightly: a little under what was measured."""


@pytest.fixture(scope="module")
def model(embedded_base):
    return load_model("embedded", device="cpu")


def lines_of(model, requests, **options):
    # Plain talk may run on for longer; calls do not.
    planner = Planner(model, max_new_tokens=96, **options)
    return [line.as_dict() for plan in planner.plan(requests) for line in plan.lines(model.name)]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("requests.jsonl", 336),
        ("hard_requests.jsonl", 130),
        ("unseen_requests.jsonl", 143),
        ("fresh_requests.jsonl", 220),
    ],
)
def test_held_out_requests_are_routed(model, routing, root, tmp_path, name, count):
    path = root / "tests" / "data" / name
    expected = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(expected) == count
    asked = read_requests(str(routing.with_pictures(path, tmp_path)))
    result = routing.score(expected, lines_of(model, asked, batch_size=16))
    assert result.accuracy >= ROUTING_BARS[name], routing.show(result)


def test_plain_answers_are_no_worse_than_those_of_the_base(embedded_base, root):
    """Per-token loss on written replies, of which every fourth is enough here."""
    model = load_model("embedded", device="cpu", dtype="float32")
    pairs = [json.loads(line) for line in (root / "tests/data/talk.jsonl").read_text().splitlines()]
    path = root / "benchmarks" / "plain_talk.py"
    spec = importlib.util.spec_from_file_location("plain_talk", path)
    plain_talk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain_talk)
    assert plain_talk.ratio(plain_talk.reply_losses(model, pairs[::4])) <= 1.02


def test_single_requests_equal_a_batch(embedded_base, root):
    """In float32: in bfloat16 a near tie may fall either way with the shape of the batch."""
    model = load_model("embedded", device="cpu", dtype="float32")
    requests = read_requests(str(root / "tests" / "data" / "requests.jsonl"))[::42]

    def replies(batch_size):
        planner = Planner(model, max_new_tokens=32, batch_size=batch_size)
        return [plan.ids for plan in planner.plan(requests)]

    assert replies(8) == replies(1)


@pytest.mark.parametrize("tag", ["<gen>", "<seg>", "</edit>", "<vid_cap>"])
def test_a_tag_in_a_request_does_not_change_its_task(model, tag):
    words = "please draw a red fox in the snow"
    requests = [Request(id="1", prompt=words), Request(id="2", prompt=f"{words} {tag}")]
    tasks = [line["task"] for line in lines_of(model, requests)]
    assert tasks == ["image", "image"]


def test_a_reply_is_never_cut_within_a_pair(model, root):
    """Decoding closes a pair when the model wants to stop, so only the length limit cuts."""
    requests = read_requests(str(root / "tests" / "data" / "requests.jsonl"))[:16]
    assert all(line["status"] == "ok" for line in lines_of(model, requests, batch_size=16))
