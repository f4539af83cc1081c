"""No two dialogues are alike, and avoiding repetitions shifts nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.dialogues import build_dialogues, builder
from llmbind_cli.data.dialogues.ngrams import DistinctNgrams
from llmbind_cli.data.dialogues.replies import without_task_tokens
from llmbind_cli.data.dialogues.statistics import describe
from llmbind_cli.data.sample import Dialogue, Turn
from llmbind_cli.data.talk import Talk
from llmbind_cli.errors import InputDataError
from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.recipes.locate import shared_folder
from llmbind_cli.training.sources import open_builder

FEW = [Talk(f"question {i}?", f"answer {i}.") for i in range(5)]


def built(count, seed=3, talk=FEW, kinds=None):
    return build_dialogues(count=count, seed=seed, captions=CaptionSets(), talk=talk, kinds=kinds)


def texts(dialogue):
    return tuple(turn.text for turn in dialogue.turns)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**40), pool=st.integers(0, 5), shorter=st.integers(0, 300))
def test_no_two_are_alike_and_a_shorter_run_is_the_beginning(seed, pool, shorter):
    longer = list(built(400, seed, FEW[:pool]))
    assert len({texts(dialogue) for dialogue in longer}) == len(longer) == 400
    assert list(built(shorter, seed, FEW[:pool])) == longer[:shorter]


def test_kinds_stay_as_drawn_however_little_talk_there_is():
    """A repetition is avoided within its kind, so the shares equal those of a pool without end."""
    few, many = built(4000), built(4000, talk=[Talk(f"q {i}?", f"a {i}.") for i in range(10**5)])
    list(few)
    list(many)
    assert few.kinds == many.kinds
    assert few.repeats["talk"] > 300
    assert few.kinds.total() == 4000


def test_first_words_of_talk_keep_their_shares():
    """Drawing again would prefer what the pool does not hold; talking on does not."""
    talks = [d for d in built(4000) if not any("<" in text for text in texts(d))]
    given_pairs = sum(d.turns[0].text.startswith("question") for d in talks)
    # 85 % by design among talk, and sessions begin with it as well; 4000 draws spread by 2 %.
    assert 0.75 < given_pairs / len(talks) < 0.92


def test_other_kinds_are_drawn_again(monkeypatch):
    def fill(session, rng, _index, _kind):
        session.turns += [Turn("user", str(int(rng.random() * 50))), Turn("assistant", "a")]

    monkeypatch.setattr(builder, "_fill", fill)
    dialogues = built(40, kinds={"image": 1.0})
    assert len({texts(d) for d in dialogues}) == 40
    assert 10 < dialogues.repeats["image"] < 35


def test_material_that_is_too_small_is_said(monkeypatch):
    def fill(session, _rng, index, _kind):
        session.turns += [Turn("user", str(index % 7)), Turn("assistant", "a")]

    monkeypatch.setattr(builder, "_fill", fill)
    dialogues = built(8, kinds={"image": 1.0})
    assert len(list(islice(dialogues, 7))) == 7
    with pytest.raises(InputDataError, match=r"dialogue 7: .* too small for 8 dialogues; lower"):
        next(dialogues)


def test_what_came_from_elsewhere_is_not_built_again():
    first, second = built(2, talk=[])
    dialogues = built(2, talk=[])
    assert dialogues.claim(Dialogue(id="x", turns=second.turns))
    assert not dialogues.claim(Dialogue(id="y", turns=second.turns))
    again = list(dialogues)
    assert again[0] == first
    assert again[1].turns != second.turns


def test_fingerprints_are_the_same_in_every_process():
    """Python's own hash of text is salted for each process."""
    program = (
        "from llmbind_cli.data.sample import Dialogue, Turn\n"
        "d = Dialogue(id='a', turns=[Turn('user', 'hé'), Turn('assistant', 'ho')])\n"
        "print(d.fingerprint())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    dialogue = Dialogue(id="b", turns=[Turn("user", "hé"), Turn("assistant", "ho")])
    assert found == {f"{dialogue.fingerprint()}\n"}
    assert dialogue.fingerprint() == 15594546938405909171


def test_fingerprints_tell_where_a_turn_ends():
    one = Dialogue(id="a", turns=[Turn("user", "ab"), Turn("assistant", "c")])
    other = Dialogue(id="a", turns=[Turn("user", "a"), Turn("assistant", "bc")])
    assert one.fingerprint() != other.fingerprint()


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.lists(st.sampled_from("abcd"), max_size=9), max_size=30))
def test_distinct_ngrams_equal_a_literal_count(lines):
    counter = DistinctNgrams(longest=4)
    for line in lines:
        counter.add(line)
    for n, found in enumerate(counter.counts(), start=1):
        grams = Counter(tuple(ln[i : i + n]) for ln in lines for i in range(len(ln) - n + 1))
        assert found == (len(grams), grams.total())


def test_distinct_ngrams_merge_portions(monkeypatch):
    monkeypatch.setattr("llmbind_cli.data.dialogues.ngrams._PORTION", 16)
    counter = DistinctNgrams(longest=2)
    lines = [f"w{i % 37} w{i % 11} w{i % 5}".split() for i in range(300)]
    for line in lines:
        counter.add(line)
    pairs = {pair for line in lines for pair in pairwise(line)}
    words = {word for line in lines for word in line}
    assert counter.counts() == [(len(words), 900), (len(pairs), 600)]
    with pytest.raises(ValueError, match="longest must be ≥ 1, got 0"):
        DistinctNgrams(longest=0)


def test_statistics_of_known_dialogues():
    dialogues = [
        Dialogue(
            id="a",
            turns=[
                Turn("user", "draw me a <gen> cat"),
                Turn("assistant", "<gen> cat </gen> <aud_cap> meow </aud_cap>"),
                Turn("user", "draw me a dog"),
                Turn("assistant", "no", complete=False),
            ],
            image="x.jpg",
        )
    ] * 2
    found = describe(dialogues)
    assert found.lengths == {2: 2}
    assert (found.pictures, found.several_calls, found.cut_replies, found.user_tags) == (2, 2, 2, 2)
    assert found.calls == {"image": 2, "audio": 2, "talk": 2}
    assert found.openings == (("draw me a", 4),)
    assert found.ngrams[0] == (6, 18)
    assert found.duplicates == 0.5
    assert found.as_fields()["ngrams"]["1"] == {
        "distinct": 6,
        "total": 18,
        "share": round(6 / 18, 6),
    }


def test_what_stands_around_a_task_token_forms_no_other_one():
    assert without_task_tokens("x <g<gen>en> y") == "x y"
    assert without_task_tokens("<video_<seg>cap> rain </aud_cap>") == "rain"


def test_kinds_can_be_chosen_and_the_own_ones_change_nothing():
    clips = built(50, kinds={"video": 2, "audio": 1})
    list(clips)
    assert clips.kinds.keys() == {"video", "audio"}
    assert list(built(50, kinds=builder.KINDS)) == list(built(50))
    for wrong in ({}, {"film": 1.0}, {"image": -1.0}):
        with pytest.raises(ValueError, match="kinds must"):
            built(1, kinds=wrong)


def test_the_recipe_of_the_papers_size_calls_its_four_tasks_equally_often():
    """LLMBind, section 4.1: image : edit : audio : video = 1 : 1 : 1 : 1."""
    (source,) = load_recipe(shared_folder("recipes") / "llmbind-7b.toml").data
    calls = describe(open_builder(source.model_copy(update={"count": 4_000}))).calls
    tasks = {task: count for task, count in calls.items() if task != "talk"}
    assert tasks.keys() == {"image", "edit", "video", "audio"}
    # Some 4,800 calls: a share of one quarter spreads by 0.6 %.
    assert all(abs(count / sum(tasks.values()) - 0.25) < 0.02 for count in tasks.values())
