"""The state that a generated token is decoded from is the one that teacher forcing finds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_vision import light_sight, picture, save_efficientnet

from llmbind_cli.errors import InputDataError
from llmbind_cli.inference.requests import Request
from llmbind_cli.inference.states import state_of_text
from llmbind_cli.inference.teacher_forced import TeacherForcedPlanner
from llmbind_cli.model import decode as decoding
from llmbind_cli.model.chat_format import ChatTurn, encode_chat
from llmbind_cli.tokens import encode_reply_text

ANSWER = "The cat <seg> and the apple <seg>."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sighted")


@pytest.fixture(scope="module")
def model(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBIND_CACHE", str(folder / "cache"))
        sight = light_sight(save_efficientnet(folder / "net"))
        return build(save_base(folder / "base"), sight=sight, tasks=["image", "segment"])


@pytest.fixture
def request_with_reply(tmp_path):
    picture(50, 33).save(tmp_path / "photo.png")
    return Request(
        id="1", prompt="mark both", images=(tmp_path / "photo.png",), modality="segment",
        reply=ANSWER,
    )  # fmt: skip


def forced(model, request):
    (plan,) = TeacherForcedPlanner(model, max_new_tokens=16).plan([request])
    return plan


def test_generated_and_forced_states_are_one(model, request_with_reply, monkeypatch):
    """Training learns at the position before the token; decoding takes the step that emits it."""
    said = encode_reply_text(model.tokenizer, ANSWER, model.token_table)
    stop = next(iter(decoding.stop_ids(model.tokenizer)))
    script = [*said, stop]
    monkeypatch.setattr(
        decoding._DecodingRun,
        "_choose",
        lambda _self, _logits, step: torch.tensor([script[step]]),
    )
    ids = encode_chat(
        model.tokenizer,
        [ChatTurn(role="user", content="mark both", num_images=1)],
        model.token_table,
        add_generation_prompt=True,
        slot=model.image_slot,
    ).ids
    with Image.open(request_with_reply.images[0]) as opened:
        seen = model.pictures.embeddings([opened.convert("RGB")])
    (reply,) = decoding.decode(model, [ids], max_new_tokens=len(script), images=[seen])
    assert reply.ids == said
    plan = forced(model, request_with_reply)
    assert plan.ids == tuple(said)
    for place, state in reply.hidden_states.items():
        # float32: with and without a cache of keys and values
        np.testing.assert_allclose(
            state_of_text(plan.states[place]), state.numpy(), atol=1e-4, rtol=1e-4
        )
    first, second = (state_of_text(plan.states[place]) for place in sorted(plan.states))
    assert not np.allclose(first, second, atol=1e-2)


def test_a_conversation_gets_the_same_states_beside_longer_and_failing_ones(
    model, request_with_reply
):
    """What is padded or fails beside it changes nothing."""
    longer = dataclasses.replace(request_with_reply, id="2", prompt="mark both of them, please")
    without = dataclasses.replace(request_with_reply, id="3", reply=None)
    plans = list(
        TeacherForcedPlanner(model, max_new_tokens=16).plan([request_with_reply, without, longer])
    )
    assert [plan.request.id for plan in plans] == ["1", "3", "2"]
    assert [plan.error is None for plan in plans] == [True, False, True]
    for plan in (plans[0], plans[2]):
        alone = forced(model, plan.request)
        assert plan.ids == alone.ids
        assert plan.states
        for place in plan.states:
            np.testing.assert_allclose(
                state_of_text(plan.states[place]), state_of_text(alone.states[place]), atol=1e-4
            )


def test_each_token_is_tied_to_the_words_before_it(model, request_with_reply):
    plan = forced(model, request_with_reply)
    assert [(call.task, call.prompt) for call in plan.calls] == [
        ("segment", "The cat"),
        ("segment", "the apple"),
    ]


def test_a_request_without_a_reply_fails(model, request_with_reply):
    plan = forced(model, dataclasses.replace(request_with_reply, reply=None))
    assert isinstance(plan.error, InputDataError)
    assert "no reply to force" in str(plan.error)


def test_a_request_without_a_picture_fails(model, request_with_reply):
    plan = forced(model, dataclasses.replace(request_with_reply, images=()))
    assert "no picture" in str(plan.error)
