"""Requests from files and stdin: every bad line is told apart from the good ones."""

from __future__ import annotations

import io
import json

import pytest

from llmbind_cli.errors import InputDataError
from llmbind_cli.inference.requests import BadLine, Request, read_requests, read_stdin


@pytest.fixture
def read(tmp_path):
    """Write the lines to a file and read it."""

    def from_lines(*lines):
        path = tmp_path / "requests.jsonl"
        path.write_bytes(b"\n".join(s if isinstance(s, bytes) else s.encode() for s in lines))
        return read_requests(str(path))

    return from_lines


def test_fields_are_taken_and_unknown_ones_carried_through(read):
    (item,) = read('{"id": "a", "prompt": "hi", "image": "p.png", "seed": 3, "source": "cron"}')
    assert isinstance(item, Request)
    assert (item.id, item.prompt, item.seed, item.extra) == ("a", "hi", 3, {"source": "cron"})
    assert [str(path) for path in item.images] == ["p.png"]


def test_a_line_without_id_is_named_after_its_number(read):
    items = read("", '{"prompt": "hi"}')
    assert [item.id for item in items] == ["line-2"]


def test_an_earlier_conversation_becomes_turns(read):
    history = [
        {"from": "human", "value": "draw a cat"},
        {"from": "gpt", "value": "Here: <gen>a cat</gen>"},
    ]
    (item,) = read(json.dumps({"id": "a", "prompt": "make it red", "history": history}))
    assert [turn.role for turn in item.turns()] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": ', "requests.jsonl:2: "),
        ("[]", "no JSON object"),
        ('{"id": "x"}', '"prompt" must be a text'),
        ('{"prompt": "  "}', '"prompt" must be a text that is not empty'),
        ('{"prompt": "a\\u0000b"}', "NUL"),
        (b'{"prompt": "\xff"}', "utf-8"),
        ('{"prompt": "the \\ud83d apple"}', "is half of a character"),
        ('{"prompt": "a", "reply": "\\udcff"}', '"reply": '),
        (
            '{"prompt": "a", "history": [{"from": "human", "value": "\\ud800"}, '
            '{"from": "gpt", "value": "x"}]}',
            "is half of a character",
        ),
        ('{"prompt": "a", "modality": "smell"}', '"modality" must be'),
        ('{"prompt": "a", "seed": -1}', '"seed" must be'),
        ('{"prompt": "a", "seed": true}', '"seed" must be'),
        (
            '{"prompt": "a", "seed": 36893488147419103232}',
            '"seed" must be a whole number below 2^63',
        ),
        ('{"prompt": "a", "image": 7}', '"image" must be'),
        ('{"prompt": "a", "history": [{"from": "gpt", "value": "x"}]}', '"history" must be'),
        ('{"prompt": "a", "history": [{"from": "human", "value": "x"}]}', "end with a gpt turn"),
        ("[" * 100_000, "requests.jsonl:2: "),
    ],
)
def test_a_bad_line_is_recorded_and_the_rest_goes_on(read, line, message):
    first, bad, last = read('{"prompt": "one"}', line, '{"prompt": "three"}')
    assert isinstance(first, Request)
    assert isinstance(last, Request)
    assert isinstance(bad, BadLine)
    assert message in str(bad.error)


def test_a_picture_s_name_may_be_longer_than_names_are(read):
    """A picture pasted in as text is a file that is not there, which its item tells later."""
    (item,) = read(json.dumps({"prompt": "a", "image": "iVBORw0KGgo" * 40}))
    assert isinstance(item, Request)


def test_an_id_with_two_contents_stops_before_any_work(read):
    with pytest.raises(InputDataError, match=r"requests\.jsonl:2: id 'a' stands for another"):
        read('{"id": "a", "prompt": "one"}', '{"id": "a", "prompt": "two"}')


def test_a_repeated_line_counts_once(read):
    assert len(read('{"id": "a", "prompt": "one"}', '{"id": "a", "prompt": "one"}')) == 1


def test_an_empty_file_has_no_requests(read):
    assert read("") == []


def test_a_byte_order_mark_is_no_part_of_the_first_request(read, monkeypatch):
    line = '\ufeff{"id": "a", "prompt": "hi"}'
    monkeypatch.setattr("sys.stdin", Stdin(line.encode()))
    assert [item.id for item in (*read(line), *read_requests("-"))] == ["a", "a"]


def test_the_largest_seed_is_one_below_the_limit(read):
    (item,) = read(f'{{"id": "a", "prompt": "hi", "seed": {2**63 - 1}}}')
    assert item.seed == 2**63 - 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputDataError, match=r"nowhere\.jsonl: cannot be read"):
        read_requests(str(tmp_path / "nowhere.jsonl"))


class Stdin(io.TextIOWrapper):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_prompt_on_stdin_must_hold_text(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", Stdin(content))
    with pytest.raises(InputDataError, match="stdin"):
        read_stdin()


def test_a_dash_reads_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", Stdin(b'{"prompt": "hi"}\n'))
    (item,) = read_requests("-")
    assert isinstance(item, Request)
    assert item.prompt == "hi"
