"""The painter: latent space, batches, words, training that goes on, and the pipeline it exports."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "embedded_generator"))

from painter import autoencoder_training, card, export, latents, names, networks, scenes, training

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
    return latents.PatchSpace.fit(batches.batch(0, 64)[0])


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
    images = batches.batch(1, 8)[0]
    whole = latents.PatchSpace.fit(images, channels=3 * latents.PATCH_PX**2)
    # Patches of few pictures span fewer axes than there are; those left over hold nothing.
    whole.scale.clamp_(min=1e-3)
    apart = np.abs(whole.decode(whole.encode(images)).astype(int) - images)
    assert apart.max() <= 1


def test_latents_have_unit_variance_and_survive_the_disk(space, batches, tmp_path):
    images = batches.batch(0, 64)[0]
    values = space.encode(images)
    assert values.shape == (64, latents.CHANNELS, latents.SIDE, latents.SIDE)
    assert float(values.square().mean()) == pytest.approx(1.0, abs=0.02)
    space.save(tmp_path / "space")
    assert torch.equal(latents.PatchSpace.load(tmp_path / "space").encode(images), values)


def test_a_batch_follows_from_its_number(batches):
    images, captions = batches.batch(5, 4)
    again, same = batches.batch(5, 4)
    assert np.array_equal(images, again)
    assert captions == same == batches.captions(5, 4)
    assert batches.captions(6, 4) != captions


def test_words_are_ids_as_in_clip(tokenizer):
    ids = networks.token_ids(tokenizer, ["A red apple", "a RED apple", "2 red"])
    assert ids.shape == (3, networks.TOKENS)
    assert torch.equal(ids[0], ids[1])
    pieces = tokenizer.convert_ids_to_tokens(ids[2])
    assert pieces[:3] == ["<|startoftext|>", "2</w>", "red</w>"]
    assert set(pieces[3:]) == {"<|endoftext|>"}


def test_the_early_mix_has_no_kind_that_the_late_one_lacks():
    assert set(scenes.EARLY_MIX) <= set(scenes.LATE_MIX)
    assert sum(scenes.EARLY_MIX.values()) == pytest.approx(1)
    assert sum(scenes.LATE_MIX.values()) == pytest.approx(1)


def test_the_rate_rises_stays_and_falls():
    settings = training.DenoiserTraining(steps=1000, warm_up=10, decay=0.4)
    shares = [settings.share_of_rate(step) for step in (0, 9, 500, 800, 999)]
    assert shares == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.02])


def test_a_training_that_was_stopped_equals_one_that_was_not(batches, space, tokenizer, tmp_path):
    def run(folder, *, stops):
        for steps in stops:
            torch.manual_seed(0)
            unet, text = tiny_unet(), networks.build_text_encoder(len(tokenizer))
            settings = training.DenoiserTraining(
                steps=steps, batch_size=2, save_every=1, warm_up=1, decay=1e-6, early=0.0
            )
            training.train_denoiser(
                unet=unet, text_encoder=text, tokenizer=tokenizer,
                scheduler=networks.build_scheduler(), space=space, early=batches, late=batches,
                settings=settings, folder=folder, save=lambda: None,
            )  # fmt: skip
        return unet.state_dict()

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
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
    tiny_unet().save_pretrained(tmp_path / "work" / "unet")
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
