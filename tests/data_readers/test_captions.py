from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbind_cli.data.captions import CaptionSets, read_captions
from llmbind_cli.errors import InputDataError


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_text_file_gives_one_caption_a_line_without_blanks_and_repetitions(tmp_path):
    path = written(tmp_path, "c.txt", "a dog\n\n  a  cat \r\na dog\n")
    assert read_captions(path) == ("a dog", "a cat")


def test_csv_finds_the_caption_column_and_keeps_quoted_commas(tmp_path):
    path = written(tmp_path, "c.csv", 'id,Caption\n1,"rain, then wind"\n2,a bell\n')
    assert read_captions(path) == ("rain, then wind", "a bell")


def test_tsv_reads_a_sentence_column(tmp_path):
    path = written(tmp_path, "c.tsv", "key\tsentence\nret0\ta man sings\n")
    assert read_captions(path) == ("a man sings",)


@pytest.mark.parametrize(
    "content",
    [
        ["a dog", "a cat"],
        [{"caption": "a dog"}, {"caption": "a cat"}],
        [{"audio_captions": "a dog"}, {"audio_captions": "a cat"}],
        {"one": ["a dog"], "two": "a cat"},
        {
            "images": [{"id": 1}],
            "annotations": [
                {"image_id": 1, "caption": "a dog"},
                {"image_id": 1, "caption": "a cat"},
            ],
        },
        {"info": {}, "videos": [], "sentences": [{"caption": "a dog"}, {"caption": "a cat"}]},
    ],
)
def test_json_layouts(tmp_path, content):
    assert read_captions(written(tmp_path, "c.json", json.dumps(content))) == ("a dog", "a cat")


def test_jsonl_reads_strings_and_objects(tmp_path):
    path = written(tmp_path, "c.jsonl", '"a dog"\n\n{"text": "a cat"}\n')
    assert read_captions(path) == ("a dog", "a cat")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.parquet", "", "not from .parquet"),
        ("c.txt", "\n", "holds no caption"),
        ("c.csv", "id,name\n1,x\n", "line 1: no caption column among id, name"),
        ("c.csv", "id,caption\n1,a,b\n", "line 2: 3 fields"),
        ("c.csv", "id,caption\n1,a\n2,\n", "line 3: the caption is empty"),
        ("c.csv", 'id,caption\n1,"a"b\n', "line 2"),
        ("c.json", '[{"caption": "a"},\n', "line 2"),
        ("c.json", '[{"caption": "a"}, {"id": 3}]', "record 1: no caption among id"),
        ("c.json", '[{"caption": 4}]', "record 0: expected a caption"),
        ("c.json", '"x"', "expected a list or an object"),
        ("c.jsonl", '{"caption": "a"}\n{"caption"\n', "line 2"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path, name, text, message):
    path = written(tmp_path, name, text)
    with pytest.raises(InputDataError, match=message) as caught:
        read_captions(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_utf8_or_missing_is_refused(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(InputDataError, match="not UTF-8 at byte 3"):
        read_captions(path)
    with pytest.raises(InputDataError, match="cannot be read"):
        read_captions(tmp_path / "absent.txt")


def test_caption_sets_are_empty_by_default():
    assert CaptionSets() == CaptionSets(image=(), video=(), audio=())


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "count", "first"),
    [
        ("msrvtt_captions/data/MSRVTT/MSRVTT_JSFUSION_test.csv", 995, "a person is connecting"),
        ("audiocaps_captions/dataset/test.csv", 4633, "Constant rattling noise"),
        ("t2x_samples/webvid/webvid.json", 20, "Roses on the garden"),
        ("t2x_samples/audiocap/audiocap_generation.json", 20, "A train running"),
        ("clipscore_example/example/refs.json", 6, "two cats are sleeping"),
    ],
)
def test_real_files(shared_data, path, count, first):
    captions = read_captions(shared_data / path)
    assert len(captions) == count
    assert captions[0].startswith(first)
