from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.conversations import read_conversations
from llmbind_cli.data.dialogues import build_dialogues
from llmbind_cli.data.sample import Dialogue, Turn
from llmbind_cli.data.spellings import parse_calls
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
    assert reader.counts.user_tags == 2


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


def test_authors_audio_pair_opens_and_closes_in_two_spellings(tmp_path):
    read = next(read_conversations(written(tmp_path, [record("x", "<aud_cap>rain</audio_cap>")])))
    assert read.turns[1].text == "<aud_cap>rain</aud_cap>"


def test_a_marker_without_an_output_is_text_and_counted(tmp_path):
    """LLaVA-Instruct holds replies that explain HTML."""
    reader = read_conversations(written(tmp_path, [record("how?", "Write <video> and </video>.")]))
    assert next(reader).turns[1].text == "Write <video> and </video>."
    assert reader.counts.plain_markers == 1
    assert dict(reader.counts.calls) == {"talk": 1}


def test_counts_say_what_was_read(tmp_path):
    cut = record("tell me", "Once upon")
    cut["conversations"][1]["complete"] = False
    records = [
        record("<gen> a cat", "<gen> a cat </gen> and <aud_cap> meow </aud_cap>", "hm", "Yes?"),
        record("what is <seg>?", "A marker."),
        cut,
    ]
    reader = read_conversations(written(tmp_path, records))
    assert [turn.complete for d in reader for turn in d.turns[1::2]] == [True, True, True, False]
    fields = reader.counts.as_fields()
    assert fields == {
        "dialogues": 3,
        "turns": 4,
        "calls": {"talk": 3, "image": 1, "audio": 1},
        "cut": 1,
        "user_tags": 2,
        "plain_markers": 0,
    }
    assert str(reader.counts) == (
        "3 dialogues, 4 turns; calls: talk 3, image 1, audio 1; 1 cut replies; "
        "2 task tags in human turns stay text"
    )


def test_only_the_placeholder_of_the_picture_goes(tmp_path):
    said = record("<image>\nwhat does <image> mean?", "A.", "and <image>?", "B.", image="x.jpg")
    later = record("hi", "A.", "see <image> here", "B.", image="x.jpg")
    first, second = read_conversations(written(tmp_path, [said, later]))
    assert [turn.text for turn in first.turns[::2]] == ["what does <image> mean?", "and <image>?"]
    assert second.turns[2].text == "see  here"


def test_records_of_an_array_are_named_with_their_line(tmp_path):
    path = tmp_path / "c.json"
    good = json.dumps(record("a", "b"), indent=2)
    lines = good.count("\n") + 1
    path.write_text(f"[\n{good},\n\n  {json.dumps(record('a', ''))}\n]\n")
    with pytest.raises(InputDataError, match=rf"c\.json: line {lines + 3}: record 1: turn 1"):
        list(read_conversations(path))


@pytest.mark.parametrize("text", ["[{}", "[{},]", "[{} {}]", "[] x", "[{}]]", "[" * 100_000])
def test_a_broken_array_is_refused(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text.replace("{}", json.dumps(record("a", "b"))))
    with pytest.raises(InputDataError, match=r"no JSON|nest too deep"):
        list(read_conversations(path))


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
        (record("a", "Sure <image>", output_image="x"), "turn 1: marks its output with <image>"),
        (record("a", "b \ud800"), "turn 1: '\\\\ud800' is half of a character"),
        ({"conversations": [{"from": "human", "value": "a", "complete": False}] * 2}, "'complete'"),
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


NASTY = st.text(st.sampled_from("ab \n\t\0\u2028\x85.") | st.characters(codec="utf-8"), max_size=12)
TEXTS = st.lists(
    NASTY | st.sampled_from(["<image>", "<gen>", "</gen>", "<video_cap>", "<seg>", "<video>"]),
    min_size=1,
    max_size=5,
).map("".join)


@settings(max_examples=40, deadline=None)
@given(
    talk=st.lists(st.builds(Talk, TEXTS, TEXTS, st.booleans()), max_size=4),
    captions=st.lists(TEXTS, max_size=3),
    seed=st.integers(0, 10**6),
)
def test_built_dialogues_survive_writing_and_reading(tmp_path_factory, talk, captions, seed):
    sets = CaptionSets(image=tuple(captions), audio=tuple(captions))
    built = list(build_dialogues(count=60, seed=seed, captions=sets, talk=talk))
    path = tmp_path_factory.mktemp("trip") / "c.jsonl"
    lines = [json.dumps(dialogue.as_record(), ensure_ascii=False) for dialogue in built]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert list(read_conversations(path)) == built


def test_a_dialogue_must_alternate():
    with pytest.raises(ValueError, match="needs pairs"):
        Dialogue(id="x", turns=[Turn("user", "a")])
    with pytest.raises(ValueError, match="turn 1 must be the assistant's"):
        Dialogue(id="x", turns=[Turn("user", "a"), Turn("user", "b")])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "task"),
    [("audiocap/audiocap", "audio"), ("cc3m/cc3m", "image"), ("webvid/webvid", "video")],
)
def test_t2x_generation_files(shared_data, name, task):
    path = shared_data / "t2x_samples" / f"{name}_generation.json"
    captions = [r[f"{task}_captions"] for r in json.loads(path.read_text())]
    reader = read_conversations(path)
    read = list(reader)
    assert reader.counts.dialogues == len(read) == len(captions) == 20
    assert dict(reader.counts.calls) == {task: len(read)}
    assert reader.counts.user_tags == reader.counts.plain_markers == 0
    for dialogue, caption in zip(read, captions, strict=True):
        ((_, called, prompt), _) = parse_calls(dialogue.turns[1].text)
        assert called == task
        assert prompt == " ".join(caption.split())


@pytest.mark.shared
def test_t2x_comprehension_of_pictures_reads_and_of_sounds_does_not(shared_data):
    folder = shared_data / "t2x_samples"
    read = list(read_conversations(folder / "cc3m/cc3m_comprehension.json"))
    assert all(dialogue.image for dialogue in read)
    assert not any("<image>" in turn.text for dialogue in read for turn in dialogue.turns)
    with pytest.raises(InputDataError, match="has a audio as input"):
        list(read_conversations(folder / "audiocap/audiocap_comprehension.json"))
