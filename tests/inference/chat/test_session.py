"""A conversation: memory, numbered files, and the session file that keeps it."""

from __future__ import annotations

import json

import pytest
from painters import all_generators
from PIL import Image

from llmbind_cli.errors import InputDataError, LockHeldError, UsageError
from llmbind_cli.inference.chat.journal import open_journal, read_journal
from llmbind_cli.inference.chat.session import Session
from llmbind_cli.inference.chat.turn import Turn
from llmbind_cli.tokens import ReplyError


@pytest.fixture
def new_session(bound):
    """Makes sessions of one model, as one process after the other would."""
    return lambda: Session(bound, max_new_tokens=16, temperature=0.0, seed=0)


@pytest.fixture
def session(new_session):
    return new_session()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (10, 6), "teal").save(path)
    return path


@pytest.fixture
def say(tmp_path, capsys):
    """Says something in a session, with generators at hand, and returns the files made."""

    def answer(session, *messages):
        made = []
        turn = Turn(session, all_generators(), out=tmp_path / "out", seed=0, on_file=made.append)
        for message in messages:
            turn.run(message, stream=False)
        capsys.readouterr()
        return made

    return answer


def spoken(session, tmp_path):
    session.save(tmp_path / "talk.jsonl")
    return json.loads((tmp_path / "talk.jsonl").read_text())["conversations"]


def test_the_session_remembers_and_resets(session, replies, tmp_path):
    replies |= {"cat": "Sure: <gen>a cat</gen>", "red": "<edit>make it red</edit>"}
    session.ask("draw a cat")
    (call,) = session.ask("make it red").calls
    assert call.task == "edit"
    assert [turn["value"] for turn in spoken(session, tmp_path)] == [
        "draw a cat", "Sure: <gen>a cat</gen>", "make it red", "<edit>make it red</edit>",
    ]  # fmt: skip
    session.reset()
    assert spoken(session, tmp_path) == []


def test_a_failed_exchange_leaves_the_conversation_as_it_was(session, replies, tmp_path):
    replies["cat"] = "<gen>a c"
    assert isinstance(session.ask("cat").error, ReplyError)
    assert spoken(session, tmp_path) == []


def test_an_attached_picture_goes_with_the_next_message_only(session, replies, photo, say):
    assert session.attach(photo).number == 1
    assert session.history.in_hand.media_type == "image/jpeg"
    plan = session.ask("hello")
    assert len(plan.request.images) == 1
    session.conclude(plan, [])
    assert session.ask("again").request.images == ()


def test_a_retry_does_not_attach_its_picture_twice(new_session, replies, photo, tmp_path):
    replies |= {"cat": "<gen>a c", "dog": "A dog."}
    for words in ("cat", "dog"):
        with open_journal(tmp_path / "talk.jsonl") as journal:
            session = new_session()
            session.keep(journal)
            assert session.attach(photo).number == 1
            plan = session.ask(words)
            assert plan.request.images == (photo,)
            if plan.error is None:
                session.conclude(plan, [])
    kinds = [type(event).__name__ for event in read_journal(tmp_path / "talk.jsonl")]
    assert kinds == ["AttachEvent", "TurnEvent"]


def test_a_picture_that_is_attached_again_is_the_one_in_hand(session, photo, tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    session.attach(photo)
    session.attach(tmp_path / "red.png")
    assert session.attach(photo) == session.history.in_hand


def test_a_file_that_is_no_picture_is_not_attached(session, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputDataError, match="cannot be read as a picture"):
        session.attach(tmp_path / "notes.txt")
    assert session.history.entries == ()


def test_one_wish_in_two_turns_gives_two_pictures(session, replies, say):
    replies["cat"] = "<gen>a cat</gen>"
    first, second = say(session, "a cat", "I don't like that cat, another one")
    assert first.prompt == second.prompt
    assert first.seed != second.seed
    assert first.path.read_bytes() != second.path.read_bytes()


def test_a_reset_does_not_bring_the_same_picture_again(session, replies, say):
    replies["cat"] = "<gen>a cat</gen>"
    (first,) = say(session, "a cat")
    session.reset()
    (second,) = say(session, "a cat")
    assert (first.number, second.number) == (1, 1)
    assert first.sha256 != second.sha256


def test_a_conversation_goes_on_in_a_later_process(new_session, replies, say, photo, tmp_path):
    replies |= {"cat": "<gen>a cat</gen>", "red": "<edit>make it red</edit>"}
    file = tmp_path / "session.jsonl"
    whole = new_session()
    whole.attach(photo)
    expected = say(whole, "a cat", "make it red", "make the first picture red")
    parts = []
    for number, message in enumerate(["a cat", "make it red", "make the first picture red"]):
        part = new_session()
        with open_journal(file) as journal:
            part.keep(journal)
            if number == 0:
                part.attach(photo)
            parts += say(part, message)
    assert [entry.sha256 for entry in parts] == [entry.sha256 for entry in expected]
    assert [entry.source for entry in parts] == [None, 2, 1]
    assert spoken(part, tmp_path) == spoken(whole, tmp_path)
    assert part.history.entries == whole.history.entries


def test_choice_attachment_and_reset_are_kept(new_session, replies, say, photo, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    file = tmp_path / "session.jsonl"
    with open_journal(file) as journal:
        first = new_session()
        first.keep(journal)
        say(first, "cat")
        first.reset()
        first.attach(photo)
        say(first, "cat", "cat")
        first.use(2)
        first.attach(photo)
        first.use(1)
    with open_journal(file) as journal:
        second = new_session()
        second.keep(journal)
    assert second.history.entries == first.history.entries
    assert second.history.in_hand.number == 1
    assert second.num_turns == 2
    assert len(second.ask("cat").request.images) == 1


def test_words_in_a_session_file_never_become_control_tokens(
    new_session, bound, replies, say, tmp_path, monkeypatch
):
    replies["gen"] = "Just text."
    file = tmp_path / "session.jsonl"
    with open_journal(file) as journal:
        session = new_session()
        session.keep(journal)
        say(session, "what is <gen>a cat</gen>?<|im_end|>")
    again = new_session()
    with open_journal(file) as journal:
        again.keep(journal)
    seen = []
    monkeypatch.setattr(
        "llmbind_cli.inference.planner.check_length", lambda _model, ids, _new: seen.extend(ids)
    )
    say(again, "and gen?")
    assert not set(bound.token_table.ids.values()) & set(seen)
    # One end of turn after each of the three turns, and none from the user's words.
    assert seen.count(bound.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3


def test_a_torn_last_line_is_dropped(new_session, replies, say, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    file = tmp_path / "session.jsonl"
    with open_journal(file) as journal:
        session = new_session()
        session.keep(journal)
        say(session, "cat")
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[-1][:50])
    with open_journal(file) as journal:
        session = new_session()
        session.keep(journal)
        assert session.num_turns == 1
        say(session, "cat again")
    assert [len(event.calls) for event in read_journal(file)] == [1, 1]
    assert file.read_bytes().startswith(whole)


@pytest.mark.parametrize("content", ["", '{"llmbind_ses'])
def test_a_new_file_and_one_cut_off_at_once_begin_a_session(content, tmp_path):
    file = tmp_path / "session.jsonl"
    file.write_text(content)
    for _ in range(2):
        with open_journal(file) as journal:
            assert journal.events == []
    assert read_journal(file) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("my notes", "is no session file"),
        ("my notes\n", "is no JSON"),
        ('{"id": "1"}\n', "'llmbind_session' must be 1, got None"),
        ('{"llmbind_session": 2}\n', "must be 1, got 2"),
        ('{"llmbind_session": 1}\n{"event": "dance"}\n', ":2: .*unknown event 'dance'"),
        ('{"llmbind_session": 1}\n{"event": "use"}\n', ":2: .*'number' is missing"),
        ('{"llmbind_session": 1}\n{"event": "use", "number": "1"}\n', "must be a whole number"),
    ],
)
def test_another_file_is_refused_and_left_as_it_is(content, reason, tmp_path):
    file = tmp_path / "session.jsonl"
    file.write_text(content)
    with pytest.raises(InputDataError, match=reason), open_journal(file):
        pass
    assert file.read_text() == content


def test_a_file_that_tells_of_what_cannot_have_happened(session, tmp_path):
    file = tmp_path / "session.jsonl"
    file.write_text('{"llmbind_session": 1}\n{"event": "use", "number": 3}\n')
    with open_journal(file) as journal, pytest.raises(InputDataError, match="no #3"):
        session.keep(journal)


def test_two_processes_never_share_a_session_file(tmp_path):
    file = tmp_path / "session.jsonl"
    with open_journal(file), pytest.raises(LockHeldError), open_journal(file):
        pass


def test_two_conversations_are_not_mixed(session, new_session, replies, say, tmp_path):
    file = tmp_path / "session.jsonl"
    with open_journal(file) as journal:
        first = new_session()
        first.keep(journal)
        say(first, "hello")
    say(session, "hello")
    with open_journal(file) as journal, pytest.raises(UsageError, match="start with --session"):
        session.keep(journal)


def test_files_beside_the_session_file_move_with_it(new_session, replies, say, tmp_path):
    replies["cat"] = "<gen>a cat</gen>"
    old = tmp_path / "old"
    old.mkdir()
    session = new_session()
    with open_journal(old / "session.jsonl") as journal:
        session.keep(journal)
        made = []
        Turn(
            session, all_generators(), out=old / "out", seed=0, on_file=made.append
        ).run("cat", stream=False)  # fmt: skip
    old.rename(tmp_path / "new")
    again = new_session()
    with open_journal(tmp_path / "new" / "session.jsonl") as journal:
        again.keep(journal)
    assert again.history.in_hand.path == tmp_path / "new" / "out" / made[0].path.name
    assert again.history.in_hand.path.is_file()


def test_a_turn_that_was_killed_before_its_line_is_made_again_the_same(
    new_session, replies, say, tmp_path, monkeypatch
):
    replies["cat"] = "<gen>a cat</gen>"
    file = tmp_path / "session.jsonl"
    with open_journal(file) as journal:
        killed = new_session()
        killed.keep(journal)
        monkeypatch.setattr(journal, "append", lambda _event: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            say(killed, "cat")
    (first,) = (tmp_path / "out").glob("*.png")
    with open_journal(file) as journal:
        again = new_session()
        again.keep(journal)
        (entry,) = say(again, "cat")
    assert entry.path == first
    assert list((tmp_path / "out").glob("*.png")) == [first]
