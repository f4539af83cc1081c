"""A bundle with sight on disk: identical after a load, and refused where something is wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_vision import light_sight, picture, sam_sight, save_efficientnet

from llmbind_cli.errors import ConfigurationError, IntegrityError
from llmbind_cli.model.chat_format import IMAGE_ID, ChatTurn, ImageSlot, encode_chat
from llmbind_cli.model.checkpoint import restore_weights, save_bundle
from llmbind_cli.model.config import BundleConfig, MaskFilter, SightConfig, VisionNetwork
from llmbind_cli.model.decode import decode
from llmbind_cli.model.loader import load_model
from llmbind_cli.model.prompt_reading import number_images

TASKS = ["image", "segment", "detect"]


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(params=["sam", "light"])
def sighted(base, clip, sam, efficientnet, request):
    light = dataclasses.replace(
        light_sight(efficientnet), mask_filter=MaskFilter(radius=2, eps=1e-4)
    )
    config = sam_sight(clip, sam) if request.param == "sam" else light
    return build(base, sight=config, tasks=TASKS)


def prompt(model, *turns):
    table, slot = model.token_table, model.image_slot
    return encode_chat(model.tokenizer, turns, table, add_generation_prompt=True, slot=slot).ids


def seen(model, image):
    sight = model.sight
    return sight.embeddings(sight.tower_features([image]))[0]


def test_a_saved_bundle_sees_and_points_as_before(sighted, tmp_path):
    save_bundle(sighted, tmp_path / "bundle", card="# Tiny\n")
    config = BundleConfig.read(tmp_path / "bundle")
    assert config.sight == sighted.config.sight
    assert all(len(n.sha256) == 64 for n in (config.sight.vision_tower,))
    keys = set(load_file(tmp_path / "bundle" / "heads.safetensors"))
    assert {"projector.linear_1.weight", "prompt_projection.linear_2.bias"} <= keys
    loaded = load_model(str(tmp_path / "bundle"), device="cpu", dtype="float32")
    assert not any(p.requires_grad for p in loaded.sight.parameters())
    image, state = picture(50, 33), torch.randn(2, 32)
    image_of = torch.zeros(2, dtype=torch.long)
    for one, other in zip(loaded.sight.heads().items(), sighted.sight.heads().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    with torch.no_grad():
        # float32: vector units take another order of sums by where in memory a tensor lies
        torch.testing.assert_close(seen(loaded, image), seen(sighted, image))
        torch.testing.assert_close(
            loaded.sight.mask_logits(loaded.sight.maps([image]), state, image_of),
            sighted.sight.mask_logits(sighted.sight.maps([image]), state, image_of),
        )
        torch.testing.assert_close(loaded.sight.boxes(state), sighted.sight.boxes(state))
    torch.manual_seed(3)
    other = build_like(sighted)
    restore_weights(other, tmp_path / "bundle")
    torch.testing.assert_close(seen(other, image), seen(sighted, image))


def build_like(model):
    config = model.config
    return build(config.language_model.source, sight=config.sight, tasks=TASKS, seed=9)


def test_a_bundle_that_reads_words_only_says_nothing_of_sight(base, tmp_path):
    save_bundle(build(base), tmp_path / "bundle", card="# Tiny\n")
    fields = json.loads((tmp_path / "bundle" / "llmbind.json").read_text())
    assert not {"vision_tower", "grounding_encoder", "sight"} & fields.keys()
    assert load_model(str(tmp_path / "bundle"), device="cpu").sight is None


def test_heads_that_are_missing_nan_or_of_another_shape_are_refused(sighted, tmp_path):
    save_bundle(sighted, tmp_path / "bundle", card="# Tiny\n")
    path = tmp_path / "bundle" / "heads.safetensors"
    tensors = load_file(path)
    name = "projector.linear_1.weight"
    for changed, message in [
        ({k: t for k, t in tensors.items() if k != name}, f"{name} is missing"),
        (tensors | {name: tensors[name][:, :-1].contiguous()}, name),
        (tensors | {name: tensors[name] * float("nan")}, f"{name} contains NaN"),
    ]:
        save_file(changed, path)
        with pytest.raises(IntegrityError, match=message):
            load_model(str(tmp_path / "bundle"), device="cpu")


def test_networks_with_other_weights_are_refused(sighted, tmp_path):
    save_bundle(sighted, tmp_path / "bundle", card="# Tiny\n")
    path = tmp_path / "bundle" / "llmbind.json"
    fields = json.loads(path.read_text())
    fields["vision_tower"]["sha256"] = "0" * 64
    path.write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match="sha256"):  # at the first picture at the latest
        load_model(str(tmp_path / "bundle"), device="cpu").pictures.embeddings([picture(64, 64)])


def test_parts_may_lie_beside_the_bundle(base, tmp_path):
    save_efficientnet(tmp_path / "parts" / "net")
    model = build(base, sight=light_sight(tmp_path / "parts" / "net"), tasks=TASKS)
    save_bundle(model, tmp_path / "bundle", card="# Tiny\n")
    path = tmp_path / "bundle" / "llmbind.json"
    fields = json.loads(path.read_text())
    for name in ("vision_tower", "grounding_encoder"):
        fields[name]["source"] = "../parts/net"
    path.write_text(json.dumps(fields))
    tmp_path.rename(tmp_path.with_name("moved"))
    assert load_model(str(tmp_path.with_name("moved") / "bundle"), device="cpu").sight is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_marks": ("<im_start>",)}, "image_marks must be none or two"),
        ({"segment_prompt": "cut out"}, "segment_prompt must hold"),
    ],
)
def test_a_wrong_configuration_is_refused(change, message):
    tower = VisionNetwork(family="clip", source="x", sha256=None, side_px=28, fit="pad")
    with pytest.raises(ValueError, match=message):
        SightConfig(vision_tower=tower, **change)


def test_a_light_decoder_s_wrong_setting_names_it(base, efficientnet):
    config = SightConfig(
        vision_tower=light_sight(efficientnet).vision_tower,
        grounding_encoder=light_sight(efficientnet).grounding_encoder,
        mask_decoder={"depth": 3},
    )
    with pytest.raises(ConfigurationError, match=r"mask_decoder: .*depth"):
        build(base, sight=config, tasks=TASKS)


def test_pictures_take_their_places_before_the_words(sighted):
    model = sighted
    count = model.sight.tower.num_tokens
    (one,) = [prompt(model, ChatTurn(role="user", content="what is it?", num_images=1))]
    assert one.count(IMAGE_ID) == count
    text = model.tokenizer.decode([i for i in one if i != IMAGE_ID])
    assert "user\n\nwhat is it?" in text
    assert "Image" not in text


def test_several_pictures_are_numbered_through_the_conversation(sighted):
    model = sighted
    turns = [
        ChatTurn(role="user", content="two of them", num_images=2),
        ChatTurn(role="assistant", content="Yes."),
        ChatTurn(role="user", content="and one more", num_images=1),
    ]
    ids = prompt(model, *turns)
    assert ids.count(IMAGE_ID) == 3 * model.sight.tower.num_tokens
    text = model.tokenizer.decode([0 if i == IMAGE_ID else i for i in ids])
    assert text.index("Image 1: ") < text.index("Image 2: ") < text.index("Image 3: ")
    later = [
        ChatTurn(role="user", content="one", num_images=1),
        ChatTurn(role="assistant", content="Yes."),
        ChatTurn(role="user", content="two", num_images=1),
    ]
    text = model.tokenizer.decode([0 if i == IMAGE_ID else i for i in prompt(model, *later)])
    assert "Image 1" not in text
    assert "Image 2: " in text


def test_marks_stand_around_the_positions(sighted):
    slot = ImageSlot(num_tokens=2, before=(7,), after=(9,))
    ids = encode_chat(
        sighted.tokenizer,
        [ChatTurn(role="user", content="x", num_images=1)],
        sighted.token_table,
        add_generation_prompt=True,
        slot=slot,
    ).ids
    place = ids.index(IMAGE_ID)
    assert ids[place - 1 : place + 3] == [7, IMAGE_ID, IMAGE_ID, 9]


def test_what_a_user_types_never_takes_a_picture_s_place(sighted):
    typed = "<image> <seg> -1 <unused> [IMG]"
    ids = prompt(sighted, ChatTurn(role="user", content=typed))
    assert IMAGE_ID not in ids
    assert sighted.token_table.ids["<seg>"] not in ids


def test_another_picture_gives_other_states_and_the_same_one_the_same(sighted):
    model = sighted
    ids = prompt(model, ChatTurn(role="user", content="what is it?", num_images=1))
    with torch.no_grad():
        first, second = seen(model, picture(40, 30, seed=1)), seen(model, picture(40, 30, seed=2))
        numbered, table = number_images([ids, ids, ids], [[first], [second], [first]])
        assert numbered[0] == numbered[2] != numbered[1]
        assert len(table) == 2 * model.sight.tower.num_tokens
        embedded = model.embed(torch.tensor(numbered), table)
        states = model.decoder(inputs_embeds=embedded).last_hidden_state[:, -1]
    # float32: a row's sums may take another order by its place in the batch
    torch.testing.assert_close(states[0], states[2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states[0], states[1], atol=1e-3)
    with pytest.raises(ValueError, match="image embeddings"):
        number_images([ids], [[first, second]])


def test_a_reply_about_a_picture_does_not_hang_on_the_batch(sighted):
    model = sighted
    asked = [
        (ChatTurn(role="user", content="what is it?", num_images=1), [picture(40, 30, seed=1)]),
        (ChatTurn(role="user", content="what is it?", num_images=1), [picture(40, 30, seed=2)]),
        (ChatTurn(role="user", content="is a cat red?"), []),
        (
            ChatTurn(role="user", content="tell them apart", num_images=2),
            [picture(40, 30, seed=1), picture(30, 40, seed=3)],
        ),
    ]
    prompts = [prompt(model, turn) for turn, _ in asked]
    with torch.no_grad():
        images = [[seen(model, image) for image in pictures] for _, pictures in asked]
    together = decode(model, prompts, max_new_tokens=8, images=images)
    for number, (ids, pictures) in enumerate(zip(prompts, images, strict=True)):
        (alone,) = decode(model, [ids], max_new_tokens=8, images=[pictures])
        assert alone.ids == together[number].ids, number
