"""The painter: latent space, batches, words, training that goes on, and the pipeline it exports."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "embedded_generator"))

from painter import (
    autoencoder_training,
    card,
    export,
    latents,
    names,
    networks,
    plan,
    scenes,
    training,
)
from resumable.state import save_state

from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import World, load_world
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.image import ImageGenerator


@pytest.fixture(scope="module")
def batches():
    """Scenes of discs, each thing in a colour of its own, 64 px."""
    world = load_world()
    codes = tuple(code for thing in world for code in thing.codes)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] - 15.5
    pictures = np.zeros((len(codes), 32, 32, 4), np.uint8)
    pictures[..., :3] = rng.integers(0, 255, (len(codes), 1, 1, 3))
    pictures[..., 3] = 255 * (np.hypot(x, y) < 14)
    sprites = Sprites(codes=codes, pictures=pictures)
    return scenes.SceneBatches(world, sprites, size_px=latents.PICTURE_PX, seed=3)


@pytest.fixture(scope="module")
def space(batches):
    return latents.PatchSpace.fit(batches.pictures(0, 64))


@pytest.fixture(scope="module")
def tokenizer(batches):
    return networks.train_tokenizer(batches.captions(0, 2000))


def tiny_unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=latents.SIDE,
        in_channels=latents.CHANNELS,
        out_channels=latents.CHANNELS,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=networks.WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def test_all_axes_together_keep_a_picture(batches):
    images = batches.pictures(1, 8)
    whole = latents.PatchSpace.fit(images, channels=3 * latents.PATCH_PX**2)
    # Patches of few pictures span fewer axes than there are; those left over hold nothing.
    whole.scale.clamp_(min=1e-3)
    apart = np.abs(whole.decode(whole.encode(images)).astype(int) - images)
    assert apart.max() <= 1


def test_latents_have_unit_variance_and_survive_the_disk(space, batches, tmp_path):
    images = batches.pictures(0, 64)
    values = space.encode(images)
    assert values.shape == (64, latents.CHANNELS, latents.SIDE, latents.SIDE)
    assert float(values.square().mean()) == pytest.approx(1.0, abs=0.02)
    space.save(tmp_path / "space")
    assert torch.equal(latents.PatchSpace.load(tmp_path / "space").encode(images), values)


def test_a_batch_follows_from_its_number(batches):
    drawn, again = batches.batch(5, 4), batches.batch(5, 4)
    assert np.array_equal(drawn.pictures, again.pictures)
    assert np.array_equal(drawn.plans, again.plans)
    assert drawn.captions == again.captions == batches.captions(5, 4)
    assert batches.captions(6, 4) != drawn.captions
    assert np.array_equal(batches.pictures(5, 4), drawn.pictures)


def test_variety_keeps_what_a_caption_tells(batches):
    rng = Random(0)
    tinted = 0
    for scene in batches.scenes(0, 300):
        varied = scenes.vary(scene, rng)
        assert varied.things == scene.things
        for placed in scene.things:
            assert varied.background.colour != (placed.colour or placed.thing.colours[0])
        if scene.background.kind != "white":
            assert varied.background == scene.background
        tinted += varied.background != scene.background
    assert tinted > 60


def test_things_move_a_little_and_stay_in_the_picture(batches):
    rng, moved = Random(0), []
    for scene in batches.scenes(0, 100):
        varied = scenes.moved(scene, rng)
        assert varied.background == scene.background
        for placed, other in zip(scene.things, varied.things, strict=True):
            assert replace(other, box=placed.box) == placed
            assert other.box.width == pytest.approx(placed.box.width, rel=0.1001)
            shift = np.abs(np.subtract(placed.box.centre, other.box.centre)).max()
            # Besides, a box that grows at the picture's side is pushed back into it.
            assert shift <= 0.0201 + max(0.0, other.box.width - placed.box.width) / 2
            moved.append(other.box != placed.box)
    assert np.mean(moved) > 0.8  # what fills the picture has nowhere to go


def test_light_falls_on_things_alone():
    picture = np.full((4, 4, 3), 200, np.uint8)
    things = np.zeros((4, 4), np.bool_)
    things[1:3, 1:3] = True
    shone = [scenes.lit(picture, things, Random(number)) for number in range(50)]
    assert all((one[~things] == 200).all() for one in shone)
    tones = np.stack([one[1, 1] for one in shone]).astype(int)
    assert tones[:, 1].min() < 180  # darker
    assert tones[:, 1].max() > 215  # brighter
    assert (tones[:, 0] > tones[:, 2]).any()  # warmer
    assert (tones[:, 0] < tones[:, 2]).any()  # cooler
    assert len({tuple(one) for one in tones}) > 40


def test_a_plan_goes_into_latents_and_back():
    values = torch.randn(2, latents.CHANNELS, latents.SIDE, latents.SIDE)
    told = plan.plan_of(values)
    assert told.shape == (2, networks.PLAN_TOKENS, plan.NUMBERS)
    assert torch.equal(plan.latents_of(told), values)
    states = plan.states_with(told)
    assert states.shape == (2, networks.TOKENS, networks.WIDTH)
    assert torch.equal(plan.plan_in(states), told)
    # The first place of the plan is the upper left quarter of a quarter.
    assert set(values[0, :, :2, :2].flatten().tolist()) <= set(told[0, 0].tolist())
    # The denoiser tells two places with the same content apart.
    same = plan.plan_of(torch.zeros_like(values))[0]
    assert len({tuple(place) for place in same.tolist()}) == networks.PLAN_TOKENS


def test_a_reader_grows_layers_that_plan(tokenizer):
    reader = networks.build_text_encoder(len(tokenizer)).eval()
    grown = networks.with_planning_layers(reader).eval()
    ids = networks.token_ids(tokenizer, ["a red apple"])
    with torch.no_grad():
        before = reader(ids, output_hidden_states=True).hidden_states[networks.READING_LAYERS]
        after = grown(ids, output_hidden_states=True).hidden_states
    assert len(after) == 1 + networks.READING_LAYERS + networks.PLANNING_LAYERS
    assert torch.equal(after[networks.READING_LAYERS], before)
    with pytest.raises(ValueError, match="reader"):
        networks.with_planning_layers(grown)


def test_plans_are_learned_and_a_killed_training_goes_on(
    batches, space, tokenizer, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(plan, "SAVE_EVERY", 20)
    monkeypatch.setattr(plan, "LOG_EVERY", 20)

    def run(folder):
        torch.manual_seed(0)
        text_encoder = networks.build_text_encoder(len(tokenizer), 1)
        plan.teach_plans(
            text_encoder, tokenizer, space, batches, steps=60, folder=folder, batch_size=8
        )
        return text_encoder.state_dict()

    def killed(*arguments, **parts):
        save_state(*arguments, **parts)
        raise KeyboardInterrupt

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = run(tmp_path / "whole")
    losses = re.findall(r"loss ([\d.]+)", capsys.readouterr().err)
    assert float(losses[2]) < 0.95 * float(losses[0])
    with monkeypatch.context() as patch:
        patch.setattr(plan, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    again = run(tmp_path / "killed")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_words_are_ids_as_in_clip(tokenizer):
    ids = networks.token_ids(tokenizer, ["A red apple", "a RED apple", "2 red"])
    assert ids.shape == (3, networks.TOKENS)
    assert torch.equal(ids[0], ids[1])
    pieces = tokenizer.convert_ids_to_tokens(ids[2])
    assert pieces[:3] == ["<|startoftext|>", "2</w>", "red</w>"]
    assert set(pieces[3:]) == {"<|endoftext|>"}


def test_the_rate_rises_stays_and_falls():
    settings = training.DenoiserTraining(steps=1000, warm_up=10, decay=0.4)
    shares = [settings.share_of_rate(step) for step in (0, 9, 500, 800, 999)]
    assert shares == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.02])


@pytest.mark.parametrize("plans", ["true", "written"])
def test_a_training_that_was_stopped_equals_one_that_was_not(
    batches, space, tokenizer, tmp_path, plans
):
    def run(folder, *, stops):
        folder.mkdir()
        for steps in stops:
            torch.manual_seed(0)
            unet = tiny_unet()
            text = networks.build_text_encoder(len(tokenizer)) if plans == "written" else None
            settings = training.DenoiserTraining(
                steps=steps, batch_size=2, save_every=1, warm_up=1, decay=1e-6
            )
            training.train_denoiser(
                unet=unet, text_encoder=text, tokenizer=tokenizer,
                scheduler=networks.build_scheduler(), space=space, batches=batches,
                settings=settings, state=folder / "state.pt",
            )  # fmt: skip
        return unet.state_dict()

    whole, stopped = run(tmp_path / "a", stops=[3]), run(tmp_path / "b", stops=[2, 3])
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_name_ends_where_its_words_end(tokenizer):
    """What is learned at a name's last token is learned at that token of the caption."""
    rng = Random(4)
    for _ in range(200):
        one = names.naming(load_world(), rng)
        assert len(one.ends) == len(one.looks)
        assert one.ends[-1] == one.caption
        whole = tokenizer(one.caption).input_ids
        for end in one.ends:
            ids = tokenizer(end).input_ids[:-1]
            assert whole[: len(ids)] == ids


def test_names_are_learned(batches, space, tokenizer, capsys):
    torch.manual_seed(0)
    text_encoder = networks.build_text_encoder(len(tokenizer))
    things = load_world().things[:3]
    sprites = batches._sprites
    names.teach_names(
        text_encoder, tokenizer, space, World(things), sprites, steps=100, batch_size=6
    )
    losses = re.findall(r"loss ([\d.]+)", capsys.readouterr().err)
    assert float(losses[1]) < 0.8 * float(losses[0])


def test_the_autoencoder_learns_and_goes_on(batches, space, tmp_path):
    large = scenes.SceneBatches(load_world(), batches._sprites, size_px=128, seed=1)

    def run(folder, *, stops):
        for steps in stops:
            torch.manual_seed(0)
            vae = networks.build_vae()
            settings = autoencoder_training.AutoencoderTraining(
                steps=steps, batch_size=2, encoder_every=2, save_every=1, decay=1e-6
            )
            autoencoder_training.train_autoencoder(
                vae, space, large, settings=settings, folder=folder
            )
        return vae

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, stopped = run(tmp_path / "a", stops=[3]), run(tmp_path / "b", stops=[2, 3])
    assert all(
        torch.equal(value, stopped.state_dict()[name]) for name, value in whole.state_dict().items()
    )
    with torch.no_grad():
        latents_seen = whole.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mode()
        picture = whole.decode(latents_seen).sample
    assert latents_seen.shape == (1, latents.CHANNELS, latents.SIDE, latents.SIDE)
    assert picture.shape == (1, 3, 128, 128)


def test_halving_averages_four_pixels():
    images = np.zeros((1, 128, 128, 3), np.uint8)
    images[0, ::2] = 100
    assert np.unique(autoencoder_training.halved(images)).tolist() == [50]


def test_the_exported_pipeline_is_an_ordinary_one(tokenizer, tmp_path):
    """What it stores in 8 bits is read by the loader that reads every other pipeline."""
    torch.manual_seed(0)
    networks.build_vae().save_pretrained(tmp_path / "work" / "vae")
    tiny_unet().save_pretrained(tmp_path / "work" / "unet_lively")
    networks.build_text_encoder(len(tokenizer)).save_pretrained(tmp_path / "work" / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "work" / "tokenizer")
    export.export(tmp_path / "work", tmp_path / "pipeline")
    sizes = [path.stat().st_size for path in (tmp_path / "pipeline").rglob("*.safetensors")]
    assert len(sizes) == 3
    assert sum(sizes) < 9e6  # 3.9 + 3.4 million weights in 8 bits, and a small denoiser
    generator = ImageGenerator.load(tmp_path / "pipeline", name="emoji")
    (made,) = generator.generate([GeneratorRequest(prompt="a red apple", seed=1)])
    assert made.media_type == "image/png"


def test_the_card_tells_figures_beside_targets_and_ceilings():
    report = {
        part: {"count": 9, "top1": 0.5, "top5": 0.75, "hue": 0.9, "both": 0.5, "each": 0.7,
               "place": 0.8, "other_pairs": 0.01, "differ_visibly": 1.0}
        for part in ("names", "synonyms", "coloured", "pairs", "two_seeds")
    }  # fmt: skip
    report |= {"sampling": {"num_inference_steps": 20, "guidance_scale": 2.5}, "seed": 0}
    report |= {"prompts": {"count": 36, "sha256": "ab"}}
    ceiling = {
        part: {"top1": 0.8, "top5": 0.95, "hue": 0.99, "both": 0.8, "one": 0.9, "place": 1.0,
               "other_pairs_both": 0.0}
        for part in ("single", "coloured", "pair")
    }  # fmt: skip
    text = card.model_card(report, ceiling, parameters=25_000_000)
    assert "| a thing by its name: top-5 | 9 | 75.0% | 85% | 95.0% |" in text
    assert "25.0 M weights" in text
