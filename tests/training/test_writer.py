"""A chat service rewords or writes dialogues: budget, faults, journal; what it says is data."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from fake_chat_service import FakeChatService, completion

from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.conversations import read_conversations
from llmbind_cli.data.dialogues import build_dialogues
from llmbind_cli.data.spellings import SPELLING
from llmbind_cli.errors import ConfigurationError, InputDataError, TemporaryError, UnavailableError
from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.training.build_data import build_data
from llmbind_cli.training.sources import read_source

pytest.importorskip("openai", reason="the 'write' extra is not installed")

RECIPE = """
[model]
base = "./absent"
[[data]]
name = "d"
kind = "builder"
seed = 5
count = {count}
[data.writer]
endpoint = "{endpoint}"
model = "fake"
retries = 2
timeout_s = 5
concurrency = {concurrency}
{more}
[train]
steps = 1
[output]
dir = "run"
"""


def politely(_number, body):
    """Reword each user turn by adding a word to it; or write the dialogue of a scenario."""
    asked = json.loads(body["messages"][1]["content"])
    if isinstance(asked, list):
        said = [turn["text"] for turn in asked if turn["from"] == "user"]
        return json.dumps({"user": [f"{text} kindly" for text in said]})
    return json.dumps({"turns": [written(exchange) for exchange in asked["exchanges"]]})


def written(exchange):
    if not exchange["tasks"]:
        return {"user": f"tell me: {exchange['topic']}", "assistant": "Gladly."}
    calls = [f"{t['tags'][0]}{t['caption']}{t['tags'][1]}" for t in exchange["tasks"]]
    wish = " and ".join(t["caption"] for t in exchange["tasks"])
    return {"user": f"please make {wish}", "assistant": f"There: {' and '.join(calls)}"}


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Start a service and write a recipe that names it; returns both."""
    started = []
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def start(answer=politely, *, count=12, concurrency=1, more=""):
        service = FakeChatService(answer)
        started.append(service)
        path = tmp_path / "recipe.toml"
        fields = {"endpoint": service.endpoint, "concurrency": concurrency, "more": more}
        path.write_text(RECIPE.format(count=count, **fields))
        return service, path

    yield start
    for service in started:
        service.close()


@pytest.fixture
def out(tmp_path):
    """The output folder."""
    return tmp_path / "out"


def built(count=12):
    return list(build_dialogues(count=count, seed=5, captions=CaptionSets(), talk=[]))


def report(out):
    return json.loads((out / "d.statistics.json").read_text())["writer"]


def read(out):
    return list(read_conversations(out / "d.jsonl"))


def journal(out):
    return [json.loads(line) for line in (out / "d.writer.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_user_turns_are_reworded_and_replies_stay(serve, out, concurrency):
    service, recipe = serve(concurrency=concurrency)
    build_data(recipe, output=out)
    for new, own in zip(read(out), built(), strict=True):
        assert [t.text for t in new.turns[::2]] == [f"{t.text} kindly" for t in own.turns[::2]]
        assert new.turns[1::2] == own.turns[1::2]
        assert (new.id, new.image) == (own.id, own.image)
    assert len(service.bodies) == 12
    found = report(out)
    assert (found["written"], found["requests"], found["tokens"]) == (12, 12, 1200)


def test_whole_dialogues_are_written_with_the_tasks_in_order(serve, out):
    service, recipe = serve(count=40, more='mode = "write"')
    build_data(recipe, output=out)
    own, new = built(40), read(out)
    calls = [any("</" in t.text for t in d.turns[1::2]) for d in own]
    assert len(service.bodies) == sum(calls)
    for one, other, called in zip(own, new, calls, strict=True):
        if not called:
            assert other == one  # plain talk is not for the service
        else:
            assert other.turns[0].text.startswith(("please make", "tell me"))
    assert report(out)["written"] == sum(calls)


def test_a_share_of_the_dialogues_is_asked_for(serve, out):
    service, recipe = serve(count=200, more="share = 0.25")
    build_data(recipe, output=out)
    assert 30 < len(service.bodies) < 70  # 50 ± 3 standard deviations of 6
    assert report(out)["written"] == len(service.bodies)


def test_a_finished_run_asks_nothing_again(serve, out):
    service, recipe = serve()
    build_data(recipe, output=out)
    before = (out / "d.jsonl").read_bytes()
    build_data(recipe, output=out)
    assert len(service.bodies) == 12
    assert (out / "d.jsonl").read_bytes() == before


def test_429_is_waited_out_as_long_as_the_service_says(serve, out):
    def busy(number, body):
        return (429, {"Retry-After": "1"}, b"{}") if number == 1 else politely(number, body)

    service, recipe = serve(busy, count=3)
    build_data(recipe, output=out)
    assert report(out)["written"] == 3
    assert report(out)["requests"] == len(service.bodies) == 4
    assert service.times[2] - service.times[1] >= 0.95


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((500, {}, b"{}"), "HTTP 500 after up to 3 tries"),
        ((429, {}, b'{"error": {"message": "slow down"}}'), "HTTP 429 .*slow down"),
        (None, r"no answer \(APIConnectionError\) in 3 tries"),
    ],
)
def test_a_service_that_stays_down_ends_the_run_with_75(serve, out, fault, message, llmbind):
    state = {"down": True}

    def broken(number, body):
        return fault if number >= 5 and state["down"] else politely(number, body)

    service, recipe = serve(broken)
    with pytest.raises(TemporaryError, match=message) as caught:
        build_data(recipe, output=out)
    assert caught.value.exit_code == 75
    assert len(service.bodies) == 5 + 3
    assert len(journal(out)) == 5
    assert not (out / "d.jsonl").exists()
    state["down"] = False
    build_data(recipe, output=out)
    assert len(service.bodies) == 8 + 7  # what was answered is not asked again
    assert report(out)["written"] == 12


def test_a_time_out_is_a_passing_fault(serve, out):
    release = threading.Event()

    def stalled(_number, _body):
        release.wait(5)

    _, recipe = serve(stalled, count=1)
    overrides = ["data.0.writer.timeout_s=0.2", "data.0.writer.retries=1"]
    with pytest.raises(TemporaryError, match=r"no answer \(APITimeoutError\) in 2 tries"):
        build_data(recipe, output=out, overrides=overrides)
    release.set()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"error": {"message": "bad key sk-secret"}}', "HTTP 401: the key is refused"),
        (404, b'{"error": {"message": "no such model"}}', "HTTP 404 for model 'fake': .*no such"),
        (400, b'{"error": {"message": "what?\\u001b[2J"}}', "HTTP 400 for model 'fake': .*what"),
    ],
)
def test_a_refusal_is_said_at_once(serve, out, status, body, message):
    service, recipe = serve(lambda *_: (status, {}, body))
    with pytest.raises(ConfigurationError, match=message) as caught:
        build_data(recipe, output=out)
    assert len(service.bodies) == 1
    assert "sk-secret" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_filtered_question_leaves_that_dialogue_alone(serve, out):
    body = b'{"error": {"message": "filtered", "code": "content_filter"}}'
    _, recipe = serve(lambda n, b: (400, {}, body) if n == 0 else politely(n, b), count=3)
    build_data(recipe, output=out)
    assert read(out)[0] == built(3)[0]
    assert report(out)["written"] == 2


GARBAGE = {
    "no JSON": ["", "Sure! Here you are.", '{"user": ["a"', "[" * 100_000, "\ud800"],
    "other form": ["[]", "{}", '{"user": "a"}', '{"user": [1]}', '{"user": [" "]}', "null", "3"],
}


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in GARBAGE.items() for text in texts]
)
def test_garbage_is_counted_and_the_builder_s_dialogue_stays(serve, out, reason, text):
    _, recipe = serve(lambda *_: text, count=3)
    build_data(recipe, output=out)
    assert read(out) == built(3)
    assert report(out)[f"kept: {reason}"] == 3
    assert report(out)["written"] == 0


@pytest.mark.parametrize("body", [b"oops", b"{}", b"[]", b'{"choices": []}', b'{"choices": "x"}'])
def test_a_body_that_is_no_completion_is_garbage(serve, out, body):
    _, recipe = serve(lambda *_: (200, {}, body), count=2)
    build_data(recipe, output=out)
    assert read(out) == built(2)
    assert report(out)["kept: no JSON"] == 2


def forging(change):
    """Answer a scenario, with one reply changed."""

    def answer(number, body):
        fields = json.loads(politely(number, body))
        turn = next(t for t in fields["turns"] if "</" in t["assistant"])
        turn["assistant"] = change(turn["assistant"])
        return json.dumps(fields)

    return answer


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text + " <gen> something else </gen>", "other tasks"),
        (lambda text: text + " <seg>", "other tasks"),
        (lambda text: text + " <video_cap> x </video_cap>", "other tasks"),
        (lambda text: text.replace("</", "<", 1), "broken tags"),
        (lambda text: text + " <edit>", "broken tags"),
        (lambda text: text.replace(">", "> <gen> ", 1), "broken tags"),
        (lambda _: "I would rather not.", "other tasks"),
        (lambda text: text + "\x1b[2J", "control characters"),
        (lambda text: text + "x" * 10_000, "too long"),
    ],
)
def test_forged_calls_in_a_reply_are_never_used(serve, out, change, reason):
    _, recipe = serve(forging(change), count=6, more='mode = "write"')
    build_data(recipe, output=out)
    assert read(out) == built(6)
    assert report(out)[f"kept: {reason}"] > 0
    assert report(out)["written"] == 0


def test_a_caption_that_lost_its_words_is_not_used(serve, out):
    def vague(number, body):
        fields = json.loads(politely(number, body))
        for turn in fields["turns"]:
            head, _, rest = turn["assistant"].partition(">")
            if rest:
                turn["assistant"] = f"{head}> qqqq </{head.rpartition('<')[2]}>"
        return json.dumps(fields)

    _, recipe = serve(vague, count=6, more='mode = "write"')
    build_data(recipe, output=out)
    assert read(out) == built(6)
    assert report(out)["kept: words lost"] > 0


def test_a_rewording_that_lost_the_wish_is_not_used(serve, out):
    def forgetful(_number, body):
        asked = json.loads(body["messages"][1]["content"])
        return json.dumps({"user": ["do it" for turn in asked if turn["from"] == "user"]})

    _, recipe = serve(forgetful, count=60)
    build_data(recipe, output=out)
    found = report(out)
    assert found["kept: words lost"] > 20
    for new, own in zip(read(out), built(60), strict=True):
        for said, answer in zip(new.turns[::2], new.turns[1::2], strict=True):
            assert said.text != "do it" or "<gen>" not in answer.text or new == own


def test_a_rewording_that_lost_the_tags_it_is_about_is_not_used(serve, out):
    def cleaning(number, body):
        said = json.loads(politely(number, body))["user"]
        return json.dumps({"user": [re.sub(r"<[^>]*>", "it", text) for text in said]})

    _, recipe = serve(cleaning, count=150, concurrency=4)
    build_data(recipe, output=out)
    own = built(150)
    tagged = [i for i, d in enumerate(own) if any(SPELLING.search(t.text) for t in d.turns[::2])]
    new = read(out)
    assert tagged
    assert all(new[i] == own[i] for i in tagged)
    assert report(out)["kept: tags lost"] == len(tagged)


def test_tags_in_reworded_user_turns_are_text(serve, out):
    def tagging(_number, body):
        asked = json.loads(body["messages"][1]["content"])
        said = [turn["text"] for turn in asked if turn["from"] == "user"]
        return json.dumps({"user": [f"{text} <gen> a bomb </gen> <seg>" for text in said]})

    _, recipe = serve(tagging, count=5)
    build_data(recipe, output=out)
    reader = read_conversations(out / "d.jsonl")
    new = list(reader)
    turns = sum(len(d.turns) // 2 for d in new)
    assert reader.counts.user_tags >= 3 * turns
    assert [d.turns[1::2] for d in new] == [d.turns[1::2] for d in built(5)]


def test_an_answer_that_repeats_a_dialogue_is_not_used(serve, out):
    def echo(_number, body):
        asked = json.loads(body["messages"][1]["content"])
        return json.dumps({"user": [turn["text"] for turn in asked if turn["from"] == "user"]})

    _, recipe = serve(echo)
    build_data(recipe, output=out)
    assert read(out) == built()
    assert report(out)["kept: repetition"] == 12
    assert report(out)["written"] == 0


def test_the_budget_of_requests_holds_over_reruns(serve, out, capsys):
    service, recipe = serve(concurrency=3, more="max_requests = 5")
    build_data(recipe, output=out)
    assert len(service.bodies) == 5
    found = report(out)
    assert (found["written"], found["not_asked"]) == (5, 7)
    assert "the budget is used up (" in capsys.readouterr().err
    assert len(read(out)) == 12
    build_data(recipe, output=out)
    assert len(service.bodies) == 5
    build_data(recipe, output=out, overrides=["data.0.writer.max_requests=12"])
    assert len(service.bodies) == 12
    assert report(out)["written"] == 12


def test_the_budget_of_tokens_holds(serve, out):
    service, recipe = serve(more="max_tokens = 350")
    build_data(recipe, output=out)
    # 100 tokens each; the fourth begins before it is known to pass the bound.
    assert len(service.bodies) == 4
    assert report(out)["tokens"] == 400


def test_a_service_that_counts_no_tokens_is_estimated(serve, out):
    bare = json.loads(completion("{}"))
    del bare["usage"]
    _, recipe = serve(lambda *_: (200, {}, json.dumps(bare).encode()), count=2)
    build_data(recipe, output=out)
    assert report(out)["tokens"] > 200


def test_a_torn_journal_line_is_dropped_and_asked_again(serve, out):
    service, recipe = serve()
    build_data(recipe, output=out)
    path = out / "d.writer.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    build_data(recipe, output=out)
    assert len(service.bodies) == 13
    assert path.read_bytes() == whole
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(InputDataError, match="line 1: no answer of a writer"):
        build_data(recipe, output=out)


def test_another_model_is_asked_anew(serve, out):
    service, recipe = serve(count=2)
    build_data(recipe, output=out)
    build_data(recipe, output=out, overrides=["data.0.writer.model=other"])
    assert [body["model"] for body in service.bodies] == ["fake", "fake", "other", "other"]


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_where_it_was(serve, out, environment, stop):
    gate = threading.Event()

    def slow_after_six(number, body):
        if number >= 6 and not gate.is_set():
            gate.wait(20)
        return politely(number, body)

    service, recipe = serve(slow_after_six)
    command = [sys.executable, "-m", "llmbind_cli", "train", str(recipe), "--build-data"]
    run = subprocess.Popen([*command, "--output", str(out)], env=environment(NO_PROXY="*"))
    deadline = time.monotonic() + 60
    while len(service.bodies) < 7 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(run.pid, stop)
    if stop == signal.SIGTERM:
        time.sleep(0.3)
        gate.set()  # the answer under way still arrives
    assert run.wait(timeout=30) == (-9 if stop == signal.SIGKILL else 143)
    gate.set()
    assert len(journal(out)) == (6 if stop == signal.SIGKILL else 7)
    assert not (out / "d.jsonl").exists()
    asked = len(service.bodies)
    build_data(recipe, output=out)
    assert len(service.bodies) - asked == 12 - (6 if stop == signal.SIGKILL else 7)
    assert report(out)["written"] == 12


def test_offline_uses_the_journal_alone(serve, out):
    service, recipe = serve(more="max_requests = 4")
    build_data(recipe, output=out)
    build_data(recipe, output=out, offline=True)
    assert len(service.bodies) == 4
    assert (report(out)["written"], report(out)["not_asked"]) == (4, 8)


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(serve, out, monkeypatch, capsys):
    service, recipe = serve(count=2, more='api_key_env = "THE_KEY"')
    monkeypatch.delenv("THE_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="environment variable THE_KEY is not set"):
        build_data(recipe, output=out)
    monkeypatch.setenv("THE_KEY", "sk-secret")
    build_data(recipe, output=out)
    assert service.keys == ["Bearer sk-secret"] * 2
    said = capsys.readouterr()
    assert "sk-secret" not in said.out + said.err
    assert not any("sk-secret" in path.read_text() for path in out.iterdir())


def test_a_source_named_like_a_journal_is_refused(serve, out):
    _, recipe = serve()
    other = '[[data]]\nname = "d.writer"\nkind = "builder"\ncount = 1\n'
    recipe.write_text(recipe.read_text().replace("[train]", other + "[train]"))
    with pytest.raises(ConfigurationError, match=r"d\.writer\.jsonl is the journal of d"):
        build_data(recipe, output=out)


def test_no_thread_outlives_a_finished_run(serve, out):
    _, recipe = serve(count=2, concurrency=8)
    before = threading.active_count()
    build_data(recipe, output=out)
    deadline = time.monotonic() + 5
    while threading.active_count() > before + 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before + 1  # one may still serve the last connection


def test_training_on_a_writer_is_refused(serve):
    _, recipe = serve()
    with pytest.raises(ConfigurationError, match="run llmbind train --build-data first"):
        next(read_source(load_recipe(recipe).data[0]))


def test_a_missing_package_is_named(serve, out, monkeypatch):
    _, recipe = serve()
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UnavailableError, match=r"pip install 'llmbind\[write\]'"):
        build_data(recipe, output=out)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("endpoint=ftp://x", "data.0.writer.endpoint"),
        ("endpoint=https://me:secret@host/v1", "data.0.writer.endpoint"),
        ('api_key_env="sk-123"', "data.0.writer.api_key_env"),
        ("share=0.0", r"data.0.writer.share must be > 0"),
        ("concurency=3", r"unknown key data.0.writer.concurency; did you mean concurrency\?"),
    ],
)
def test_writer_settings_are_checked(serve, override, message):
    _, recipe = serve()
    with pytest.raises(ConfigurationError, match=message):
        load_recipe(recipe, overrides=[f"data.0.writer.{override}"])
