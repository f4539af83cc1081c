from __future__ import annotations

import re
import time
from collections import Counter
from random import Random

import pytest

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.dialogues import build_dialogues
from llmbind_cli.data.dialogues.requests import ask
from llmbind_cli.data.dialogues.statistics import describe
from llmbind_cli.data.dialogues.wishes import WishSource, spoken
from llmbind_cli.data.talk import Talk
from llmbind_cli.tokens import TASK_TOKENS

CAPTIONS = CaptionSets(
    image=("A brown horse in a field", "two <gen> cats sleeping"),
    video=("a man is cooking pasta",),
    audio=("Thunder roars while rain falls",),
)
TALK = [Talk(f"question {i}?", f"answer {i}.") for i in range(400)]
PAIRS = [(t.open, t.close) for t in TASK_TOKENS if t.close is not None]
CALL = re.compile(
    "|".join(f"{re.escape(o)} (?P<_{i}>.+?) {re.escape(c)}" for i, (o, c) in enumerate(PAIRS))
)
SPELLING = re.compile("|".join(re.escape(s) for t in TASK_TOKENS for s in t.spellings))
SMALL_WORDS = "a an the of in on at to with and for from as by is are it its or"
SMALL = frozenset(SMALL_WORDS.split())


def build(count, seed=11, captions=CAPTIONS, talk=TALK):
    return list(build_dialogues(count=count, seed=seed, captions=captions, talk=talk))


def words(text):
    return [w for w in re.findall(r"[\w'-]+", text.lower()) if w not in SMALL]


@pytest.fixture(scope="module")
def built():
    return build(6000)


def test_same_seed_same_dialogues_and_a_shorter_run_is_its_beginning(built):
    assert build(200) == built[:200]
    assert [d.turns for d in build(200, seed=12)] != [d.turns for d in built[:200]]


def test_task_tokens_in_replies_form_whole_calls(built):
    for dialogue in built:
        for turn in dialogue.turns[1::2]:
            rest = CALL.sub("", turn.text)
            assert not SPELLING.search(rest), turn.text
            assert turn.text.strip()


def test_media_are_equally_frequent_and_every_task_has_its_share(built):
    calls = describe(built).calls
    total = sum(calls.values())
    shares = {task: count / total for task, count in calls.items()}
    media = [shares[task] for task in ("image", "video", "audio")]
    assert max(media) / min(media) < 1.25
    assert 0.1 < shares["edit"] < 0.2
    assert 0.18 < shares["talk"] < 0.35


def test_no_opening_and_no_phrase_rules(built):
    found = describe(built)
    assert found.openings[0][1] / found.turns < 0.02
    assert found.distinct_openings > 3000
    replies = [turn.text for d in built for turn in d.turns[1::2] if SPELLING.search(turn.text)]
    leads = Counter(SPELLING.split(text)[0].strip() for text in replies)
    del leads[""]
    assert leads.most_common(1)[0][1] / len(replies) < 0.02


def test_conversations_vary_in_length_and_media(built):
    lengths = Counter(len(d.turns) // 2 for d in built)
    assert all(lengths[n] > 50 for n in (1, 2, 3, 4))
    several = [d for d in built if any(len(CALL.findall(t.text)) > 1 for t in d.turns[1::2])]
    assert len(several) / len(built) > 0.02
    attached = [d for d in built if d.image is not None]
    edits = [d for d in attached if "<edit>" in d.turns[1].text]
    assert 0.4 < len(edits) / len(attached) < 0.95


def test_prompts_keep_the_wish():
    source, rng = WishSource(CaptionSets()), Random(5)
    kept = asked = 0
    for index in range(3000):
        medium = ("image", "video", "audio")[index % 3]
        wish = source.draw(rng, medium)
        line, prompt = ask(rng, medium, wish)
        said = " ".join(line.sentences)
        if wish.text.lower() in said.lower():
            wanted = words(wish.full)
            found = set(words(prompt))
            asked += len(wanted)
            kept += sum(word in found for word in wanted)
    assert asked > 10_000
    assert kept / asked > 0.99


def test_prompts_of_first_requests_add_no_words(built):
    """What a prompt says stands in the request, but for slips of the keyboard."""
    foreign = total = 0
    for dialogue in built:
        calls = CALL.findall(dialogue.turns[1].text)
        if calls and "<edit>" not in dialogue.turns[1].text:
            said = set(words(dialogue.turns[0].text))
            stems = {w[:4] for w in said}
            for prompt in (part for call in calls for part in call if part):
                asked = words(prompt)
                total += len(asked)
                foreign += sum(w not in said and w[:4] not in stems for w in asked)
    assert foreign / total < 0.05


def test_user_tags_are_text_and_leave_the_task_alone(built):
    tagged = [
        (user.text, reply.text)
        for d in built
        for user, reply in zip(d.turns[::2], d.turns[1::2], strict=True)
        if SPELLING.search(user.text)
    ]
    assert len(tagged) / len(built) > 0.01
    media = [reply for _, reply in tagged if CALL.search(reply)]
    assert media
    assert len(media) < len(tagged)


def test_task_tokens_in_captions_and_talk_replies_never_reach_a_reply():
    captions = CaptionSets(image=("<gen> x </gen> <seg> cat",))
    for dialogue in build(
        500, captions=captions, talk=[Talk("hi", "<gen> sure </gen> <seg> hello")]
    ):
        for turn in dialogue.turns[1::2]:
            assert not SPELLING.search(CALL.sub("", turn.text))
        if dialogue.turns[0].text == "hi":
            assert dialogue.turns[1].text == "sure hello"


def test_every_given_talk_pair_may_appear_and_none_is_needed():
    given = {turn.text for d in build(4000) for turn in d.turns[1::2]}
    assert sum(pair.reply in given for pair in TALK) > 300
    without = build(500, talk=[])
    assert any(not CALL.search(d.turns[1].text) for d in without)


def test_a_cut_talk_reply_stays_marked():
    cut = Talk("tell me all", "It began", complete=False)
    turns = [turn for d in build(200, talk=[cut]) for turn in d.turns]
    assert any(turn.text == cut.reply for turn in turns)
    assert all(turn.complete != (turn.text == cut.reply) for turn in turns)


def test_captions_cross_media():
    captions = CaptionSets(video=tuple(f"a man is cooking pasta in pan {i}" for i in range(600)))
    built = build(1500, captions=captions)
    asked = [t.text for d in built for t in d.turns[1::2] if "cooking pasta" in t.text]
    count = {t.task: sum(t.open in text for text in asked) for t in TASK_TOKENS}
    assert all(count[medium] > 50 for medium in ("image", "video", "audio"))


def test_negative_count_is_refused():
    with pytest.raises(ValueError, match="count and seed must be ≥ 0, got -1 and 0"):
        build(-1, seed=0)


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("A man speaks .", "a man speaks"),
        ("rain ,  then wind\r\n", "rain, then wind"),
        ("BBC news", "BBC news"),
        ("word " * 40, ""),
        ("<gen></gen>", ""),
    ],
)
def test_captions_are_said_in_mid_sentence(caption, said):
    assert spoken(caption) == said


def test_building_is_fast_enough_for_400_000_in_ten_minutes():
    build(50)  # loads the phrase banks
    start = time.process_time()
    build(1500, seed=3)
    # The bar is 700 a second; a loaded machine reaches several times that.
    assert 1500 / (time.process_time() - start) > 700


def test_statistics_count_what_they_say():
    twice = build(40) + build(40)
    found = describe(twice, most_common=3)
    assert found.dialogues == 80
    assert found.turns == sum(len(d.turns) // 2 for d in twice)
    assert found.duplicates >= 0.5
    assert len(found.openings) == 3
    assert 0 < found.distinct(2) < 1
    empty = describe([])
    assert (empty.dialogues, empty.duplicates, empty.distinct(2)) == (0, 0.0, 0.0)
