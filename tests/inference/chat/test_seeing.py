"""``chat`` with a model that sees: answers, masks, and two pictures that one can tell apart."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_vision import light_sight, picture, save_efficientnet

from llmbind_cli import app
from llmbind_cli.inference import planner
from llmbind_cli.inference.chat.session import Session
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
    from llmbind_cli.inference.chat.journal import open_journal

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
