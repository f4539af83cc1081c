from __future__ import annotations

import pytest

from llmbind_cli.data.talk import Talk, read_talk
from llmbind_cli.errors import InputDataError


def test_pairs_are_read_in_order_and_stripped(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"prompt": " a ", "reply": "b\\n", "complete": false}\n\n{"prompt": "c", "reply": "d"}\n'
    )
    assert read_talk(path) == [Talk("a", "b", complete=False), Talk("c", "d")]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_a_line_separator_of_another_kind_does_not_end_the_line(tmp_path, separator):
    path = tmp_path / "t.jsonl"
    # JSON allows the first two unescaped; the last two only escaped, and must stay so.
    escaped = separator if separator in "\u2028\x85" else f"\\u{ord(separator):04x}"
    path.write_text(f'{{"prompt": "a", "reply": "b{escaped}c"}}\n', encoding="utf-8")
    assert read_talk(path) == [Talk("a", f"b{separator}c")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2: no JSON"),
        ("[1]", "line 2: expected"),
        ('{"prompt": 1, "reply": "b"}', "line 2: expected"),
        ('{"prompt": "a"}', "line 2: expected"),
        ('{"prompt": "a", "reply": "b", "complete": "no"}', "line 2: expected"),
        ('{"prompt": "a", "reply": " "}', "line 2: prompt and reply must not be empty"),
        ('{"prompt": "a", "reply": "\\ud800"}', "line 2: holds half of a character"),
        ("[" * 100_000, "line 2: no JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"prompt": "a", "reply": "b"}}\n{line}\n')
    with pytest.raises(InputDataError, match=message) as caught:
        read_talk(path)
    assert str(path) in str(caught.value)


def test_unreadable_and_empty_files_are_refused(tmp_path):
    with pytest.raises(InputDataError, match="cannot be read: No such file"):
        read_talk(tmp_path / "none.jsonl")
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xff")
    with pytest.raises(InputDataError, match="not UTF-8 at byte 0"):
        read_talk(path)
    path.write_text("\n")
    with pytest.raises(InputDataError, match="holds no pair"):
        read_talk(path)
