from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.conversations import read_conversations
from llmbind_cli.data.dialogues import build_dialogues
from llmbind_cli.data.sample import Dialogue, Turn
from llmbind_cli.data.talk import Talk
from llmbind_cli.errors import InputDataError


def record(*values: str, **fields: object) -> dict:
    speakers = ("human", "gpt")
    spoken = [{"from": speakers[i % 2], "value": value} for i, value in enumerate(values)]
    return {"id": "a", "conversations": spoken, **fields}


def written(tmp_path: Path, records: object, name: str = "c.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_array_and_jsonl_give_the_same_dialogues(tmp_path):
    records = [record("draw a cat", "<gen> a cat </gen>"), record("hi", "Hello!", image="x.jpg")]
    lines = tmp_path / "c.jsonl"
    lines.write_text("\n".join(json.dumps(r) for r in records) + "\n\n", encoding="utf-8")
    read = list(read_conversations(written(tmp_path, records)))
    assert read == list(read_conversations(lines))
    assert read[0].turns == [Turn("user", "draw a cat"), Turn("assistant", "<gen> a cat </gen>")]
    assert read[1].image == "x.jpg"


@pytest.mark.parametrize(
    ("alias", "canonical"),
    [
        ("<video_cap> waves </video_cap>", "<vid_cap> waves </vid_cap>"),
        ("<audio_cap>rain</audio_cap>", "<aud_cap>rain</aud_cap>"),
        ("<video_cap> waves </vid_cap>", "<vid_cap> waves </vid_cap>"),
    ],
)
def test_aliases_become_canonical_in_replies(tmp_path, alias, canonical):
    read = next(read_conversations(written(tmp_path, [record("x", f"Here: {alias}")])))
    assert read.turns[1].text == f"Here: {canonical}"


def test_user_tags_stay_text_and_are_counted(tmp_path):
    text = "what does <gen> mean, and <video_cap>?"
    reader = read_conversations(written(tmp_path, [record(text, "They are markers.")]))
    assert next(reader).turns[0].text == text
    assert reader.user_tags == 2


@pytest.mark.parametrize(
    ("medium", "expected"),
    [
        ("image", "Sure! <gen> a red dog </gen>"),
        ("video", "Sure! <vid_cap> a red dog </vid_cap>"),
        ("audio", "Sure! <aud_cap> a red dog </aud_cap>"),
    ],
)
def test_t2x_output_markers_become_calls_with_the_caption(tmp_path, medium, expected):
    entry = record("make it", f"Sure! <{medium}>", **{f"{medium}_captions": "a  red <gen>dog\n"})
    del entry["id"]
    read = next(read_conversations(written(tmp_path, [entry])))
    assert read.turns[1].text == expected
    assert read.id == "c-0"


def test_llava_image_placeholder_is_taken_out_where_a_picture_is_attached(tmp_path):
    attached = record("<image>\nWhat is it?", "A dog.", image="x.jpg")
    bare = record("what does <image> mean?", "A marker.")
    first, second = read_conversations(written(tmp_path, [attached, bare]))
    assert first.turns[0].text == "What is it?"
    assert second.turns[0].text == "what does <image> mean?"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("text", "record 0: expected an object"),
        ({"id": 1}, "record 0: 'conversations' must be a list"),
        (record("only one side"), "record 0: 'conversations' must be a list"),
        (record("a", "b", image=["x"]), "record 0: 'image' must be one path"),
        (record("a", "b", masks="m"), "record 0: 'masks' must be a list"),
        (record("a", "b", input_audio="x.wav"), "record 0: has a audio as input"),
        (record("a", ""), "turn 1: the text is empty"),
        (record("a", "<gen> cat"), "turn 1: <gen> is not closed by </gen>"),
        (record("a", "cat </gen>"), "turn 1: </gen> closes nothing"),
        (record("a", "<gen> cat </edit>"), "turn 1: </edit> inside <gen>"),
        (record("a", "<gen> <edit> cat </edit> </gen>"), "turn 1: <edit> inside <gen>"),
        (record("a", "<gen> </gen>"), "turn 1: nothing between <gen> and </gen>"),
        (record("a", "Sure <image>"), "turn 1: marks its output with <image>"),
        (
            {"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]},
            "turn 0: must be from 'human', got 'gpt'",
        ),
        (
            {"conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]},
            "turn 0: expected 'from' and a text 'value'",
        ),
    ],
)
def test_a_broken_record_is_named(tmp_path, broken, message):
    path = written(tmp_path, [broken])
    with pytest.raises(InputDataError, match=message) as caught:
        list(read_conversations(path))
    assert str(path) in str(caught.value)


def test_broken_files_are_named_with_the_line(tmp_path):
    path = tmp_path / "c.jsonl"
    good = json.dumps(record("a", "b")).encode()
    for bad, message in ((b"{oops", "line 2: no JSON"), (b"\xff", "line 2: not UTF-8")):
        path.write_bytes(good + b"\n" + bad + b"\n")
        with pytest.raises(InputDataError, match=message):
            list(read_conversations(path))
    path.write_bytes(b"[{]")
    with pytest.raises(InputDataError, match="line 1: no JSON"):
        list(read_conversations(path))
    path.write_bytes(b"\n")
    with pytest.raises(InputDataError, match="holds no conversation"):
        list(read_conversations(path))
    with pytest.raises(InputDataError, match="cannot be read"):
        list(read_conversations(tmp_path / "absent.json"))


def test_built_dialogues_survive_writing_and_reading(tmp_path):
    built = list(build_dialogues(count=300, seed=4, captions=CaptionSets(), talk=[Talk("a", "b")]))
    path = written(tmp_path, [dialogue.as_record() for dialogue in built])
    assert list(read_conversations(path)) == built


def test_a_dialogue_must_alternate():
    with pytest.raises(ValueError, match="needs pairs"):
        Dialogue(id="x", turns=[Turn("user", "a")])
    with pytest.raises(ValueError, match="turn 1 must be the assistant's"):
        Dialogue(id="x", turns=[Turn("user", "a"), Turn("user", "b")])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["audiocap/audiocap", "cc3m/cc3m", "webvid/webvid"])
def test_t2x_generation_files(shared_data, name):
    path = shared_data / "t2x_samples" / f"{name}_generation.json"
    tag = {"audiocap": "<aud_cap>", "cc3m": "<gen>", "webvid": "<vid_cap>"}[name.split("/")[0]]
    read = list(read_conversations(path))
    assert len(read) >= 8
    assert all(tag in dialogue.turns[1].text for dialogue in read)
