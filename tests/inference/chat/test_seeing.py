"""``chat`` with a model that sees: answers, masks, and two pictures that one can tell apart."""

from __future__ import annotations

import json

import pytest
import torch
from painters import all_generators
from PIL import Image
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_vision import light_sight, picture, save_efficientnet

from llmbind_cli import app
from llmbind_cli.errors import PartialFailure
from llmbind_cli.inference import planner
from llmbind_cli.inference.chat.journal import open_journal
from llmbind_cli.inference.chat.replay import replay
from llmbind_cli.inference.chat.session import Session
from llmbind_cli.inference.chat.turn import Turn
from llmbind_cli.inference.masks import MaskSettings, WithMasks
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.model.decode import Reply
from llmbind_cli.tokens import encode_reply_text


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sighted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBIND_CACHE", str(folder / "cache"))
        sight = light_sight(save_efficientnet(folder / "net"))
        return build(save_base(folder / "base"), sight=sight, tasks=["image", "segment"])


@pytest.fixture
def heard(monkeypatch):
    """What the model heard, and the replies that it gives in turn."""
    log: dict[str, list] = {"texts": [], "images": [], "replies": []}

    def decode(model, prompts, *, images, on_token, **_options):
        answers = []
        for row, (prompt, seen) in enumerate(zip(prompts, images, strict=True)):
            log["texts"].append(model.tokenizer.decode([max(i, 0) for i in prompt]))
            log["images"].append(list(seen))
            assert sum(i < 0 for i in prompt) == sum(len(one) for one in seen)
            reply = log["replies"].pop(0)
            ids = encode_reply_text(model.tokenizer, reply, model.token_table)
            seg = model.token_table.ids["<seg>"]
            for index in ids if on_token else ():
                on_token(row, index)
            states = {n: torch.randn(32) for n, i in enumerate(ids) if i == seg}
            answers.append(Reply(ids=ids, finished=True, hidden_states=states))
        return answers

    monkeypatch.setattr(planner, "decode", decode)
    return log


@pytest.fixture
def photos(tmp_path):
    paths = []
    for number, size in enumerate([(50, 33), (24, 40)]):
        path = tmp_path / f"photo-{number}.png"
        picture(*size, seed=number).save(path)
        paths.append(path)
    return paths


def session_of(model):
    return Session(model, max_new_tokens=32, temperature=0.0, seed=0)


def test_two_pictures_stay_in_order_over_the_turns(model, heard, photos):
    heard["replies"] += ["A cat.", "A dog.", "The first one."]
    session = session_of(model)
    session.attach(photos[0])
    plan = session.ask("what is this?")
    session.conclude(plan, [])
    session.attach(photos[1])
    plan = session.ask("and this?")
    session.conclude(plan, [])
    session.ask("which is larger?")
    assert [len(seen) for seen in heard["images"]] == [1, 2, 2]
    assert "Image" not in heard["texts"][0]
    assert "Image 2: " in heard["texts"][1]
    first, second = heard["images"][2]
    assert first is heard["images"][0][0], "seen once, kept since"
    assert not torch.allclose(first, second)
    session.reset()
    heard["replies"].append("Nothing.")
    session.ask("what do you see?")
    assert heard["images"][-1] == []


def test_a_kept_conversation_goes_on_with_its_pictures(model, heard, photos, tmp_path):
    heard["replies"] += ["A cat.", "Red."]
    path = tmp_path / "talk.jsonl"
    with open_journal(path) as journal:
        session = session_of(model)
        session.keep(journal)
        session.attach(photos[0])
        session.conclude(session.ask("what is this?"), [])
    with open_journal(path) as journal:
        session = session_of(model)
        session.keep(journal)
        session.ask("which colour?")
    assert [len(seen) for seen in heard["images"]] == [1, 1]


def test_a_kept_conversation_goes_on_without_a_picture_that_is_gone(
    model, heard, photos, tmp_path, capsys
):
    from llmbind_cli.inference.chat.journal import open_journal

    heard["replies"] += ["A cat.", "A dog.", "The dog.", "Red.", "Both."]
    path = tmp_path / "talk.jsonl"

    def ask(words, *attached):
        with open_journal(path) as journal:
            session = session_of(model)
            session.keep(journal)
            for photo in attached:
                session.attach(photo)
            session.conclude(session.ask(words), [])

    ask("what is this?", photos[0])
    ask("and this?", photos[1])
    photos[0].rename(tmp_path / "elsewhere.png")
    assert capsys.readouterr().err == ""
    ask("which barks?")
    told = f"{photos[0]}: is gone; the conversation goes on without this picture"
    assert capsys.readouterr().err.count(told) == 1
    with open_journal(path) as journal:
        session = session_of(model)
        session.keep(journal)
        session.attach(photos[1])
        photos[1].rename(tmp_path / "nowhere.png")
        session.conclude(session.ask("which colour?"), [])
    assert capsys.readouterr().err.count("is gone") == 3
    (tmp_path / "elsewhere.png").rename(photos[0])
    (tmp_path / "nowhere.png").rename(photos[1])
    ask("which are there?")
    assert [len(seen) for seen in heard["images"]] == [1, 2, 1, 0, 2]


@pytest.fixture
def bundle(model, tmp_path):
    save_bundle(model, tmp_path / "bundle", card="# Tiny\n")
    return tmp_path / "bundle"


def chat(*arguments) -> int:
    return app.main(["chat", *map(str, arguments)])


def test_chat_answers_about_a_picture_and_cuts_things_out(bundle, heard, photos, tmp_path, capsys):
    heard["replies"].append("That is a cat <seg>.")
    out = tmp_path / "out"
    asked = ("what is this?", "--image", photos[0], "--model", bundle, "--out", out)
    assert chat(*asked, "--json") == 0
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert (line["task"], line["prompt"], line["status"]) == ("segment", "That is a cat", "ok")
    with Image.open(line["files"][0]["path"]) as mask:
        assert mask.size == (50, 33)
    heard["replies"].append("It is a cat.")
    assert chat(*asked) == 0
    assert capsys.readouterr().out == "It is a cat.\n"


def test_a_mask_is_of_the_picture_that_is_named(bundle, heard, photos, tmp_path, capsys):
    out = tmp_path / "out"
    both = ("--image", photos[0], "--image", photos[1], "--model", bundle, "--json", "--out", out)
    for words, size in [
        ("cut the cat out of the first picture", (50, 33)),
        ("cut the cat out", (24, 40)),
    ]:
        heard["replies"].append("The cat <seg>.")
        assert chat(words, *both) == 0
        (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        with Image.open(line["files"][0]["path"]) as mask:
            assert mask.size == size


def test_pointing_without_a_picture_is_told(bundle, heard, tmp_path, capsys):
    heard["replies"].append("There <seg>.")
    assert chat("where?", "--model", bundle, "--out", tmp_path) == 2
    assert "this conversation has none" in capsys.readouterr().err


@pytest.fixture
def talk(model, tmp_path):
    """Goes on with a conversation kept in a file; returns what was made by the messages."""

    def go_on(*messages, attach=()):
        made = []
        with open_journal(tmp_path / "talk.jsonl") as journal:
            session = session_of(model)
            session.keep(journal)
            for path in attach:
                session.attach(path)
            makers = WithMasks(all_generators(), lambda: model, MaskSettings())
            out = tmp_path / "out"
            turn = Turn(session, makers, out=out, seed=0, on_file=made.append)
            for message in messages:
                turn.run(message, stream=True)
        return made

    return go_on


def test_a_picture_made_here_is_shown_before_it_is_cut_up(heard, talk, tmp_path, capsys):
    """The reply that pointed at what the model had not seen is given up, and never shown."""
    heard["replies"] += ["<gen>a cat</gen>", "Wrong <seg>.", "The cat <seg>.", "Its ear <seg>."]
    (drawn,) = talk("draw a cat")
    (mask,) = talk("mark the cat")
    assert (mask.task, mask.source, mask.prompt) == ("segment", drawn.number, "The cat")
    with Image.open(mask.path) as opened:
        assert opened.size == (12, 8)
    assert [len(seen) for seen in heard["images"]] == [0, 0, 1]
    assert "Wrong" not in heard["texts"][-1]
    assert capsys.readouterr().out == "[image: a cat]\nThe cat [segment].\n"
    # What was shown once stays in sight, also of the one that goes on with the conversation.
    (ear,) = talk("and the ear")
    assert ear.source == drawn.number
    assert [len(seen) for seen in heard["images"]] == [0, 0, 1, 1]
    replay(tmp_path / "talk.jsonl", generators=all_generators(), out=tmp_path / "again")


def test_a_picture_made_here_and_named_is_shown_beside_the_attached_one(heard, talk, photos):
    heard["replies"] += ["<gen>a dog</gen>", "There <seg>.", "Both <seg>.", "One <seg>."]
    talk("draw a dog", attach=photos[:1])
    (mask,) = talk("mark the dog in the last picture")
    assert (mask.source, mask.prompt) == (2, "Both")
    (mask,) = talk("mark the sky in the first picture")
    assert mask.source == 1
    assert [len(seen) for seen in heard["images"]] == [1, 1, 2, 2]


def test_talk_about_a_picture_made_here_is_decided_once(heard, talk, capsys):
    heard["replies"] += [
        "<gen>a dog</gen>",
        "You are welcome.",
        "One <gen>a cat</gen> <seg>",
        "No.",
    ]
    talk("draw a dog", "thanks", "draw a cat, and mark it")
    assert [len(seen) for seen in heard["images"]] == [0, 0, 0, 1]
    assert capsys.readouterr().out == "[image: a dog]\nYou are welcome.\nNo.\n"
    assert heard["replies"] == []


def test_an_answer_that_fails_leaves_its_picture_out(heard, talk):
    heard["replies"] += ["<gen>a dog</gen>", "<seg>", "<gen>half", "Hello."]
    with pytest.raises(PartialFailure, match="ends before"):
        talk("draw a dog", "mark the dog")
    talk("hello")
    assert [len(seen) for seen in heard["images"]] == [0, 0, 1, 0]
