"""Masks from embeddings: parity with transformers' SamModel; independence; boxes; gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image
from tiny_vision import build_sam, light_sight, picture, sam_sight
from torch.nn import functional
from transformers import SamModel

from llmbind_cli.errors import ConfigurationError, IntegrityError
from llmbind_cli.model.config import MaskFilter, ObjectTokens
from llmbind_cli.model.vision.loading import load_sight
from llmbind_cli.model.vision.picture_memory import PictureMemory
from llmbind_cli.model.vision.sam_mask_decoder import take_sam_decoder
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder, place_encoding

WIDTH = 24
TASKS = ("image", "segment", "detect")


def sight_of(config, tasks=TASKS, seed=0):
    return load_sight(
        config,
        bundle=None,
        hidden_size=WIDTH,
        tasks=tasks,
        device=torch.device("cpu"),
        dtype=torch.float32,
        offline=True,
        seed=seed,
    )


@pytest.fixture
def sam_bundle(clip, sam):
    return sight_of(sam_sight(clip, sam))


@pytest.fixture
def light_bundle(efficientnet):
    return sight_of(light_sight(efficientnet))


def states(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_mask_logits_are_those_of_sam_model_fed_the_same_prompt(sam_bundle, sam):
    """The same prompt embedding is put in where SamModel's prompt encoder would give its own."""
    own = SamModel.from_pretrained(sam).eval()
    image = picture(50, 33)
    prompts = sam_bundle.prompt_projection(states(3))
    dense = own.prompt_encoder(None, None, None, None)[1]
    own.prompt_encoder.forward = lambda **_: (prompts[None, :, None], dense)
    with torch.no_grad():
        pixels = sam_bundle.grounding.preprocessing(image)[None]
        expected = own(pixel_values=pixels, multimask_output=False).pred_masks[0, :, 0]
        maps = sam_bundle.maps([image])
        logits = sam_bundle.mask_logits(maps, states(3), torch.zeros(3, dtype=torch.long))
    assert logits.shape == (3, 16, 16)
    assert logits.std() > 1e-3, "a constant would agree with anything"
    # float32, the same operations on another batch axis
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bundle", ["sam_bundle", "light_bundle"])
def test_a_mask_hangs_on_its_own_prompt_and_picture_alone(bundle, request):
    sight = request.getfixturevalue(bundle)
    pictures = [picture(40, 30, seed=1), picture(33, 64, seed=2)]
    asked, image_of = states(5), torch.tensor([1, 0, 1, 1, 0])
    with torch.no_grad():
        together = sight.mask_logits(sight.maps(pictures), asked, image_of)
        alone = [
            sight.mask_logits(
                sight.maps([pictures[index]]), state[None], torch.zeros(1, dtype=torch.long)
            )[0]
            for state, index in zip(asked, image_of.tolist(), strict=True)
        ]
    # float32: sums in another order for another batch size
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bundle", ["sam_bundle", "light_bundle"])
def test_gradients_reach_every_head_that_trains_and_no_frozen_network(bundle, request):
    sight = request.getfixturevalue(bundle)
    features = sight.tower_features([picture(40, 30)])
    logits = sight.mask_logits(
        sight.maps([picture(40, 30)]), states(2), torch.zeros(2, dtype=torch.long)
    )
    total = logits.square().mean() + sight.embeddings(features).square().mean()
    (total + sight.boxes(states(2)).square().mean()).backward()
    for name, parameter in sight.heads().items():
        if not parameter.requires_grad:
            assert name.startswith("mask_decoder.prompt_encoder"), name
        elif "iou_" not in name and ".output_hypernetworks_mlps." not in name:
            assert parameter.grad is not None, name
    assert all(p.grad is None for p in sight.tower.parameters())
    assert all(p.grad is None for p in sight.grounding.parameters())


def test_the_light_decoder_answers_on_its_finest_map(light_bundle):
    maps = light_bundle.maps([picture(64, 64)])
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]
    logits = light_bundle.mask_logits(maps, states(1), torch.zeros(1, dtype=torch.long))
    assert logits.shape == (1, 16, 16)


@pytest.mark.parametrize("size", [(64, 64), (90, 40)])
def test_masks_may_end_where_the_colours_of_the_picture_do(light_bundle, size):
    image = Image.new("RGB", size, (40, 160, 60))
    image.paste((200, 30, 30), (0, 0, 25, size[1]))  # the thing: all that is left of column 25
    cells = light_bundle.frame(image).content[0] * 16 // 64
    logits = torch.full((1, 16, 16), -4.0)
    logits[:, :, : round(25 / size[0] * cells)] = 4.0
    sight = light_bundle
    assert torch.equal(sight.masks(image, logits), sight.frame(image).masks(logits))
    sight.config = dataclasses.replace(sight.config, mask_filter=MaskFilter(radius=2, eps=1e-5))
    (mask,) = sight.masks(image, logits)
    assert mask.shape == (size[1], size[0])
    assert mask[:, :25].all()
    assert not mask[:, 25:].any()
    assert sight.masks(image, logits[:0]).shape == (0, size[1], size[0])


@pytest.mark.parametrize(("radius", "eps"), [(0, 1e-5), (3, 0.0)])
def test_a_filter_without_windows_or_without_a_ridge_is_refused(radius, eps):
    with pytest.raises(ValueError, match="mask_filter must have a radius ≥ 1 and an eps > 0"):
        MaskFilter(radius=radius, eps=eps)


def test_the_light_decoder_can_learn_two_masks_from_two_prompts():
    """The left half for one prompt and the lower half for another, on one picture."""
    torch.manual_seed(0)
    decoder = LightMaskDecoder(channels=(5, 6, 7), prompt_width=32, num_heads=2)
    maps = [torch.randn(1, c, 16 >> i, 16 >> i) for i, c in enumerate((5, 6, 7))]
    prompts, image_of = torch.randn(2, 32), torch.zeros(2, dtype=torch.long)
    target = torch.zeros(2, 16, 16)
    target[0, :, :8] = 1
    target[1, 8:] = 1
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    for _ in range(40):
        logits = decoder(maps, prompts, image_of)
        loss = functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((logits > 0) == target.bool()).float().mean() > 0.97


@pytest.mark.parametrize("channels", [(5,), (5, 7), (3, 5, 7)])
def test_one_two_or_more_scales_will_do(channels):
    decoder = LightMaskDecoder(channels=channels, prompt_width=16, num_heads=2)
    maps = [torch.randn(1, c, 16 >> i, 16 >> i) for i, c in enumerate(channels)]
    logits = decoder(maps, torch.randn(2, 16), torch.zeros(2, dtype=torch.long))
    assert logits.shape == (2, 16, 16)


@pytest.mark.parametrize("attended_maps", [1, 2, 3])
def test_more_or_less_of_the_maps_may_be_attended_to(attended_maps):
    decoder = LightMaskDecoder(
        channels=(3, 5, 7), prompt_width=16, num_heads=2, attended_maps=attended_maps
    )
    maps = [torch.randn(1, c, 16 >> i, 16 >> i) for i, c in enumerate((3, 5, 7))]
    side = 2 << attended_maps
    assert decoder.embedding(maps).shape == (1, 16, side, side)
    logits = decoder(maps, torch.randn(2, 16), torch.zeros(2, dtype=torch.long))
    assert logits.shape == (2, 16, 16)


def test_a_neck_looks_at_neighbours_before_anything_is_asked():
    torch.manual_seed(0)
    plain, necked = (
        LightMaskDecoder(channels=(5, 7), prompt_width=16, num_heads=2, neck_layers=layers)
        for layers in (0, 2)
    )
    maps = [torch.randn(1, 5, 16, 16), torch.randn(1, 7, 8, 8)]
    other = [one.clone() for one in maps]
    other[0][0, :, 8, 8] += 1
    for decoder, reach in ((plain, 0), (necked, 4)):
        changed = (decoder.embedding(maps) != decoder.embedding(other)).any(1)[0].nonzero()
        assert (changed - 8).abs().max() == reach


def test_a_light_decoder_of_odd_width_is_refused():
    with pytest.raises(ValueError, match="multiple of 4 · num_heads, got 18 with 2 heads"):
        LightMaskDecoder(channels=(8,), prompt_width=18, num_heads=2)
    with pytest.raises(ValueError, match="channels must be ≥ 1"):
        LightMaskDecoder(channels=())
    with pytest.raises(ValueError, match="attended_maps must be ≥ 1 and neck_layers ≥ 0"):
        LightMaskDecoder(channels=(8,), attended_maps=0)


def test_places_tell_rows_from_columns():
    places = place_encoding(3, 5, 16).unflatten(0, (3, 5))
    assert torch.equal(places[1, 0, :8], places[1, 4, :8])  # the row alone
    assert torch.equal(places[0, 2, 8:], places[2, 2, 8:])  # the column alone
    assert len({tuple(p.tolist()) for p in places.flatten(0, 1)}) == 15


def test_boxes_are_centre_and_size_over_the_picture(light_bundle):
    head = light_bundle.box_head
    with torch.no_grad():
        head.linear_3.weight.zero_()
        head.linear_3.bias.copy_(torch.tensor([0.25, 0.5, 0.2, 0.4]).logit())
    expected = torch.tensor([[0.15, 0.3, 0.35, 0.7]]).expand(2, -1)
    torch.testing.assert_close(light_bundle.boxes(states(2)), expected)


def test_heads_belong_to_tasks_and_those_alone_are_saved(clip, sam, efficientnet):
    both = sight_of(light_sight(efficientnet))
    assert both.serves == {"segment", "detect"}
    talk = sight_of(light_sight(efficientnet), tasks=("image",))
    assert talk.serves == frozenset()
    assert {name.split(".")[0] for name in talk.heads()} == {"projector"}
    assert {name.split(".")[0] for name in both.heads()} == {
        "projector",
        "prompt_projection",
        "mask_decoder",
        "box_head",
    }
    no_grounding = dataclasses.replace(light_sight(efficientnet), grounding_encoder=None)
    with pytest.raises(ConfigurationError, match="no mask decoder"):
        sight_of(no_grounding).mask_logits([], states(1), torch.zeros(1, dtype=torch.long))


def test_the_mask_decoder_starts_as_segment_anything_s_own(sam_bundle, sam):
    own = SamModel.from_pretrained(sam).state_dict()
    for name, parameter in sam_bundle.mask_decoder.named_parameters():
        assert torch.equal(parameter, own[name]), name


def test_a_sam_without_its_decoder_is_refused(sam_bundle):
    state = build_sam().state_dict()
    state.pop("mask_decoder.iou_token.weight")
    with pytest.raises(IntegrityError, match=r"lacks mask_decoder\.iou_token\.weight"):
        take_sam_decoder(sam_bundle.mask_decoder, state, "x")


def test_a_picture_may_be_a_list_of_things(efficientnet):
    objects = ObjectTokens(most=3, names=5, colours=2, pieces=2)
    config = dataclasses.replace(light_sight(efficientnet), object_tokens=objects)
    sight = sight_of(config)
    features = sight.tower_features([picture(40, 30)])
    assert features.shape[1] == sight.tower.num_tokens == 4
    assert sight.num_tokens == 3 * (2 + 2) + 3 * 2 + 4
    assert sight.embeddings(features).shape == (1, sight.num_tokens, WIDTH)
    for cells, most in ((4, 5), (8, 3)):
        sight.tower.num_tokens = cells
        more = dataclasses.replace(config, object_tokens=dataclasses.replace(objects, most=most))
        with pytest.raises(ConfigurationError, match=f"{most} things cannot be found in the"):
            Sight(
                more,
                tower=sight.tower,
                grounding=sight.grounding,
                hidden_size=WIDTH,
                tasks=["image", "segment"],
                mask_decoder=sight.mask_decoder,
            )


def tuned(efficientnet):
    """Things are listed by blocks of the projector's own, from stride 16 on."""
    config = light_sight(efficientnet)
    tower = dataclasses.replace(config.vision_tower, strides=(32,), tuned_from=16)
    objects = ObjectTokens(most=3, names=5, colours=2, pieces=2)
    return dataclasses.replace(config, vision_tower=tower, object_tokens=objects)


def test_the_last_blocks_may_be_the_projector_s_own(efficientnet):
    sight = sight_of(tuned(efficientnet))
    pictures = [picture(40, 30, seed=1), picture(33, 64, seed=2)]
    features, maps = sight.look(pictures)
    torch.testing.assert_close(features, sight.tower_features(pictures))
    assert features.shape == (2, 4, 4 * 112 + 2)
    assert features[0, :, -2:].tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    # They begin as those of the network, and read what that one's read.
    stage = sight.projector.stage
    assert all(name.startswith("projector.stage.") for name in sight.heads() if "stage" in name)
    folded = features[..., :-2].transpose(1, 2).reshape(2, -1, 2, 2)
    whole = torch.nn.functional.pixel_shuffle(folded, 2)
    with torch.no_grad():
        torch.testing.assert_close(stage.last(whole), maps[-1], atol=1e-4, rtol=1e-4)
    assert sight.embeddings(features).shape == (2, sight.num_tokens, WIDTH)
    sight.projector.refined(features)[..., 0].sum().backward()
    assert stage.last.top.convolution.weight.grad.any()
    assert not any(p.requires_grad for p in sight.tower.parameters())


def test_a_prompt_may_point_at_the_list(efficientnet, monkeypatch):
    config = tuned(efficientnet)
    assert sight_of(config).things(torch.zeros(1, 4, 450)) is None
    sight = sight_of(dataclasses.replace(config, mask_decoder={"pointer_width": 8}))
    sight.projector.finding.bias.data[0] = 3.0  # finds something
    sight.mask_decoder.pointed.data.fill_(1.0)
    pictures = [picture(40, 30, seed=1), picture(33, 64, seed=2)]
    features, maps = sight.look(pictures)
    listed = sight.things(features)
    assert listed.present.any()
    assert listed.told.shape == (2, 3, 2 * WIDTH + 20)
    embedded, read = sight.read(features)
    torch.testing.assert_close(embedded, sight.embeddings(features))
    torch.testing.assert_close(tuple(read), tuple(listed))
    image_of = torch.tensor([0, 1, 1])
    logits = sight.mask_logits(maps, states(3), image_of, listed)
    elsewhere = listed._replace(places=1 - listed.places)
    assert (logits != sight.mask_logits(maps, states(3), image_of, elsewhere)).any()
    with pytest.raises(ValueError, match="needs a list of them"):
        sight.mask_logits(maps, states(3), image_of)
    # Looked at once, a picture's list is known; asked about first, it is made.
    memory, late = PictureMemory(sight), PictureMemory(sight)
    memory.embeddings(pictures)
    monkeypatch.setattr(sight, "read", None)
    known = memory.mask_inputs(pictures[1]).things
    torch.testing.assert_close(known.places, listed.places[1:])
    monkeypatch.undo()
    torch.testing.assert_close(tuple(late.mask_inputs(pictures[1]).things), tuple(known))
    plain = PictureMemory(sight_of(config))
    assert plain.mask_inputs(pictures[0]).things is None
    tower = dataclasses.replace(config.vision_tower, fit="stretch")
    pointing = dataclasses.replace(config, mask_decoder={"pointer_width": 8})
    with pytest.raises(ConfigurationError, match="of one fit, got stretch and corner"):
        sight_of(dataclasses.replace(pointing, vision_tower=tower))
    with pytest.raises(ConfigurationError, match="must be 0, or ≥ 1 with object_tokens, got 8"):
        sight_of(dataclasses.replace(light_sight(efficientnet), mask_decoder={"pointer_width": 8}))


def test_the_last_blocks_may_be_the_mask_decoder_s_own(efficientnet, light_bundle):
    """They begin as those of the network, so masks begin as they are without them."""
    config = light_sight(efficientnet)
    encoder = dataclasses.replace(config.grounding_encoder, tuned_from=16)
    sight = sight_of(dataclasses.replace(config, grounding_encoder=encoder))
    pictures = [picture(40, 30, seed=1), picture(33, 64, seed=2)]
    maps, whole = sight.maps(pictures), light_bundle.maps(pictures)
    assert len(maps) == len(whole) - 1
    torch.testing.assert_close(maps, whole[:-1])
    torch.testing.assert_close(sight.look(pictures)[1], maps)
    sight.load_heads(light_bundle.heads())
    image_of = torch.tensor([0, 1, 1])
    logits = sight.mask_logits(maps, states(3), image_of)
    expected = light_bundle.mask_logits(whole, states(3), image_of)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    logits.sum().backward()
    assert sight.mask_decoder.last.top.convolution.weight.grad.any()
    assert "mask_decoder.last.top.convolution.weight" in sight.heads()


def test_blocks_that_nobody_wants_do_not_run(efficientnet):
    config = tuned(efficientnet)
    encoder = dataclasses.replace(config.grounding_encoder, tuned_from=16)
    both = sight_of(dataclasses.replace(config, grounding_encoder=encoder))
    one = sight_of(config)
    ran = []
    for sight in (both, one):
        sight.tower.network.top.register_forward_hook(lambda *_, s=sight: ran.append(s is both))
        sight.look([picture(40, 30)])
        sight.tower_features([picture(40, 30)])
    assert ran == [False]


def test_blocks_are_tuned_only_where_things_are_listed_of_one_map(efficientnet, clip, sam):
    config = tuned(efficientnet)
    encoder = dataclasses.replace(sam_sight(clip, sam).grounding_encoder, tuned_from=16)
    with pytest.raises(ConfigurationError, match="is for EfficientNet-lite0, not for sam"):
        sight_of(dataclasses.replace(sam_sight(clip, sam), grounding_encoder=encoder))
    encoder = dataclasses.replace(config.grounding_encoder, tuned_from=8)
    with pytest.raises(ConfigurationError, match="strides must end with tuned_from and 32, got"):
        sight_of(dataclasses.replace(config, grounding_encoder=encoder))
    other = dataclasses.replace(sam_sight(clip, sam).vision_tower, tuned_from=16)
    with pytest.raises(ConfigurationError, match="is for EfficientNet-lite0, not for clip"):
        sight_of(dataclasses.replace(config, vision_tower=other))
    grid = dataclasses.replace(config, object_tokens=None)
    with pytest.raises(ConfigurationError, match="tuned_from needs object_tokens"):
        sight_of(grid)
    for change in ({"strides": (16, 32)}, {"tuned_from": 32}):
        tower = dataclasses.replace(config.vision_tower, **change)
        with pytest.raises(ConfigurationError, match="tuned_from must be 4, 8 or 16 where"):
            sight_of(dataclasses.replace(config, vision_tower=tower))


def test_one_network_for_both_runs_once(light_bundle, sam_bundle, efficientnet, monkeypatch):
    pictures = [picture(40, 30, seed=1), picture(33, 64, seed=2)]
    runs = []
    run = light_bundle.tower.network.feature_maps
    monkeypatch.setattr(
        light_bundle.tower.network, "feature_maps", lambda *asked: runs.append(1) or run(*asked)
    )
    features, maps = light_bundle.look(pictures)
    assert len(runs) == 1
    torch.testing.assert_close(features, light_bundle.tower_features(pictures))
    torch.testing.assert_close(maps, light_bundle.maps(pictures))
    features, maps = sam_bundle.look(pictures)
    assert maps is None
    torch.testing.assert_close(features, sam_bundle.tower_features(pictures))
    config = light_sight(efficientnet)
    larger = dataclasses.replace(config.grounding_encoder, side_px=128)
    assert sight_of(dataclasses.replace(config, grounding_encoder=larger)).look(pictures)[1] is None


def test_maps_that_came_with_the_embeddings_are_kept(light_bundle, monkeypatch):
    one = picture(40, 30)
    memory = PictureMemory(light_bundle)
    memory.embeddings([one, picture(33, 64)])
    expected = light_bundle.maps([one])
    monkeypatch.setattr(light_bundle, "maps", None)  # is not asked again
    torch.testing.assert_close(memory.mask_inputs(one).maps, expected)


def test_equal_seeds_give_equal_heads(efficientnet):
    one, same, other = (sight_of(light_sight(efficientnet), seed=s).heads() for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["projector.linear_1.weight"], other["projector.linear_1.weight"])


def test_a_new_projector_speaks_at_the_scale_of_words(efficientnet):
    sight = load_sight(
        light_sight(efficientnet),
        bundle=None,
        hidden_size=64,
        tasks=TASKS,
        device=torch.device("cpu"),
        dtype=torch.float32,
        offline=True,
        seed=0,
        embedding_rms=0.1,
    )
    words = sight.embeddings(sight.tower_features([picture(64, 64)]))
    assert 0.05 < words.square().mean().sqrt() < 0.2
