"""A small binding model whose replies are scripted, and a bundle of it on disk."""

from __future__ import annotations

import pytest
from tiny_binding_model import build
from tiny_language_models import save_base

from llmbind_cli.inference import planner
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.model.decode import Reply
from llmbind_cli.tokens import encode_reply_text


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def bound(tmp_path_factory):
    """A binding model; tests leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBIND_CACHE", str(tmp_path_factory.mktemp("cache")))
        return build(save_base(tmp_path_factory.mktemp("base") / "llama"))


@pytest.fixture(scope="session")
def bundle(bound, tmp_path_factory):
    """The folder of its bundle."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    save_bundle(bound, folder, card="# Tiny\n")
    return folder


@pytest.fixture
def replies(monkeypatch):
    """A dictionary from a part of the prompt to the reply that a model is to give."""
    scripted: dict[str, str] = {}

    def decode(model, prompts, *, openings, on_token, **_options):
        answers = []
        for row, (prompt, opening) in enumerate(zip(prompts, openings, strict=True)):
            # The last user turn alone: earlier ones hold the parts of earlier prompts.
            text = model.tokenizer.decode(prompt).rpartition("<|im_start|>user")[2]
            said = next((reply for part, reply in scripted.items() if part in text), "Hm.")
            ids = [*opening, *encode_reply_text(model.tokenizer, said, model.token_table)]
            for index in ids if on_token else ():
                on_token(row, index)
            answers.append(Reply(ids=ids, finished=True))
        return answers

    monkeypatch.setattr(planner, "decode", decode)
    return scripted
