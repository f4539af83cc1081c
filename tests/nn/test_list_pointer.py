"""What a prompt points at: the listed thing that it means, and where that stands."""

from __future__ import annotations

import pytest
import torch

from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder
from llmbind_cli.nn.list_pointer import SURENESS, ListedThings, ListPointer, heat, tell, told_width

PICTURES, MOST, WIDTH, NAMES = 2, 3, 5, 7


@pytest.fixture
def things():
    torch.manual_seed(0)
    present = torch.tensor([[True, True, True], [True, False, False]])
    places = torch.tensor([[[0.1, 0.9], [0.5, 0.2], [0.8, 0.4]], [[0.5, 0.5], [0, 0], [0, 0]]])
    shares = torch.randn(PICTURES, MOST, NAMES).softmax(2)
    names, colours = torch.randn(2, PICTURES, MOST, WIDTH)
    return ListedThings(tell(names, colours, shares, places, present), places, present)


def pointer(queries=4):
    torch.manual_seed(1)
    return ListPointer(query_width=queries, told_width=told_width(WIDTH))


def test_ends_and_sureness_are_told(things):
    assert things.told.shape == (PICTURES, MOST, told_width(WIDTH))
    sure, unsure, left, top, right, bottom = things.told[0, :, -6:].T
    assert (sure > 1 / NAMES).all()
    assert (unsure > 0).all()
    assert left.tolist() == [1, 0, 0]
    assert top.tolist() == [0, 1, 0]
    assert right.tolist() == [0, 0, 1]
    assert bottom.tolist() == [1, 0, 0]
    assert things.told[1, 0, -4:].tolist() == [1, 1, 1, 1]  # alone


def test_heat_lies_where_the_thing_is_that_is_meant(things):
    points = pointer()
    image_of = torch.tensor([0, 0, 1])
    keys = points.direct(things.told) + points.mixed(
        torch.nn.functional.gelu(points.hidden(things.told))
    )
    queries = 200 * torch.stack([keys[0, 0], keys[0, 2], keys[1, 0]])
    shares = points.shares(queries, things, image_of)
    shown = heat(shares, things, image_of, (10, 20))
    assert shown.shape == (3, 10, 20)
    scores = points.scores(queries, things, image_of)
    for row, picture in enumerate(image_of.tolist()):
        x, y = things.places[picture, scores[row].argmax()].tolist()
        row_of, column_of = divmod(int(shown[row].argmax()), 20)
        assert abs((row_of + 0.5) / 10 - y) <= 0.05 + 1e-6
        assert abs((column_of + 0.5) / 20 - x) <= 0.025 + 1e-6
    assert (shown >= 0).all()
    assert (shown <= 1 + 1e-6).all()
    assert (scores[2, 1:] < -100).all()  # no such thing


def test_a_picture_without_things_gets_no_heat(things):
    none = things._replace(present=torch.zeros(PICTURES, MOST, dtype=torch.bool))
    image_of = torch.tensor([0])
    shares = pointer().shares(torch.randn(1, 4), none, image_of)
    assert heat(shares, none, image_of, (4, 4)).abs().max() == 0


def test_queries_are_answered_apart(things):
    points, queries = pointer(), torch.randn(3, 4)
    image_of = torch.tensor([0, 1, 0])
    together = points.shares(queries, things, image_of)
    for row in range(3):
        alone = points.shares(queries[row : row + 1], things, image_of[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


def test_a_decoder_begins_without_pointing_and_learns_to(things):
    """Two masks of one picture that its map does not tell apart, but its list does."""
    torch.manual_seed(0)
    decoder = LightMaskDecoder(
        channels=(5, 6), prompt_width=16, num_heads=2, pointer_width=4,
        told_width=told_width(WIDTH), attended_maps=1,
    )  # fmt: skip
    assert decoder.prompt_width == 20
    maps = [torch.zeros(PICTURES, 5, 16, 16), torch.zeros(PICTURES, 6, 8, 8)]
    prompts = torch.cat([torch.zeros(2, 16), torch.eye(4)[:2]], dim=1)
    image_of = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        first, second = decoder(maps, prompts, image_of, things)
    assert torch.equal(first, second)
    target = torch.zeros(2, 16, 16)
    target[0, 11:16, 0:4] = 1
    target[1, 0:6, 6:11] = 1
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    for _ in range(120):
        logits = decoder(maps, prompts, image_of, things)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((logits > 0) == target.bool()).float().mean() > 0.97
    with pytest.raises(ValueError, match="needs a list of them"):
        decoder(maps, prompts, image_of)


def test_for_what_has_no_sure_name_the_prompt_says_what_is_listed(things):
    """Three parts in four, where the pointer is sure; else the prompt is as it came."""
    settings = {
        "channels": (5, 6), "prompt_width": 16, "num_heads": 2, "pointer_width": 4,
        "told_width": told_width(WIDTH), "attended_maps": 1,
    }  # fmt: skip
    trusting, plain = LightMaskDecoder(**settings, pointer_trust=0.9), LightMaskDecoder(**settings)
    torch.nn.init.normal_(trusting.pointed)
    torch.nn.init.normal_(trusting.listed.weight)
    missing, unexpected = plain.load_state_dict(trusting.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["listed.weight", "listed.bias"])
    maps = [torch.randn(PICTURES, 5, 16, 16), torch.randn(PICTURES, 6, 8, 8)]
    image_of, points = torch.zeros(3, dtype=torch.long), trusting.pointer
    things.told[0, 0, SURENESS] = torch.tensor([0.5, 1.0])
    things.told[0, 2, SURENESS] = torch.tensor([0.99, 0.1])
    with torch.no_grad():
        keys = points.direct(things.told) + points.mixed(
            torch.nn.functional.gelu(points.hidden(things.told))
        )
        queries = torch.stack([500 * keys[0, 0], 0 * keys[0, 0], 500 * keys[0, 2]])
        shares = points.shares(queries, things, image_of)
        assert (shares.amax(1) > 0.9).tolist() == [True, False, True]
        assert shares[[0, 2]].argmax(1).tolist() == [0, 2]
        own = torch.randn(3, 16)
        told = own.clone()
        told[0] = 0.25 * own[0] + 0.75 * (shares[0] @ trusting.listed(things.told[0]))
        found = trusting(maps, torch.cat([own, queries], dim=1), image_of, things)
        expected = plain(maps, torch.cat([told, queries], dim=1), image_of, things)
        torch.testing.assert_close(found, expected)


def test_an_unsure_name_can_speak_for_a_thing(things):
    torch.manual_seed(1)
    asking = ListPointer(query_width=4, told_width=told_width(WIDTH), unnamed=3.0)
    things.told[0, :, SURENESS] = torch.tensor([[1.0, 0.0], [0.7, 0.5], [0.3, 1.8]])
    queries, image_of = torch.randn(2, 4), torch.tensor([0, 1])
    more = asking.scores(queries, things, image_of) - pointer().scores(queries, things, image_of)
    torch.testing.assert_close(more[0], torch.tensor([0.0, 1.5, 3.0]))  # one nat is enough
    assert (more[1, 1:] == 0).all()  # there is no such thing
    with pytest.raises(ValueError, match="unnamed must be ≥ 0, got -1"):
        ListPointer(query_width=4, told_width=3, unnamed=-1)


def test_trust_and_unsure_names_need_a_pointer():
    settings = {"channels": (5,), "prompt_width": 16, "num_heads": 2, "told_width": 3}
    for unnamed, width in ((2.0, 0), (-1.0, 4)):
        with pytest.raises(ValueError, match=rf"pointer_unnamed must be ≥ 0, .* got {unnamed}"):
            LightMaskDecoder(**settings, pointer_width=width, pointer_unnamed=unnamed)
    for trust, width in ((0.9, 0), (0.0, 4), (1.5, 4)):
        with pytest.raises(ValueError, match=rf"pointer_trust must be in \(0, 1\], .* got {trust}"):
            LightMaskDecoder(**settings, pointer_width=width, pointer_trust=trust)


def test_widths_below_one_are_refused():
    with pytest.raises(ValueError, match="query_width and told_width must be ≥ 1, got 0 and 3"):
        ListPointer(query_width=0, told_width=3)
    for width in (-1, 4):
        with pytest.raises(ValueError, match=f"≥ 1 with object_tokens, got {width}"):
            LightMaskDecoder(channels=(5,), prompt_width=16, num_heads=2, pointer_width=width)
