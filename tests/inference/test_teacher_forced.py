"""The state that a generated token is decoded from is the one that teacher forcing finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_vision import light_sight, picture, save_efficientnet

from llmbind_cli.data.masks import RleMask
from llmbind_cli.data.pictures import PictureFile
from llmbind_cli.data.rle import encode_runs
from llmbind_cli.data.sample import Sample, SegmentTarget, Turn
from llmbind_cli.errors import UnavailableError
from llmbind_cli.inference.teacher_forced import forced_masks, forced_states
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
def sample(tmp_path):
    picture(50, 33).save(tmp_path / "photo.png")
    mask = np.zeros((33, 50), bool)
    mask[5:20, 10:30] = True
    target = SegmentTarget(RleMask(tuple(encode_runs(mask)), 33, 50), "the cat")
    return Sample(
        id="1",
        turns=[Turn("user", "mark both"), Turn("assistant", ANSWER)],
        image="photo.png",
        pictures=(PictureFile(tmp_path / "photo.png", "photo"),),
        segments=(target, target),
    )


def test_generated_and_forced_states_are_one(model, sample, monkeypatch):
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
    seen = model.pictures.embeddings([sample.pictures[0].load()])
    (reply,) = decoding.decode(model, [ids], max_new_tokens=len(script), images=[seen])
    assert reply.ids == said
    generated = torch.stack([reply.hidden_states[place] for place in sorted(reply.hidden_states)])
    # float32: with and without a cache of keys and values
    torch.testing.assert_close(generated, forced_states(model, sample), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(generated[0], generated[1], atol=1e-2)


def test_forced_masks_are_in_the_picture_s_frame(model, sample):
    masks = forced_masks(model, sample)
    assert (masks.shape, masks.dtype) == ((2, 33, 50), np.bool_)


def test_a_model_of_words_has_none(folder, sample, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(folder / "cache"))
    with pytest.raises(UnavailableError, match="no mask decoder"):
        forced_masks(build(folder / "base"), sample)
