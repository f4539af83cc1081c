"""Vision towers beside transformers' own models; token counts; loading from every layout."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vision import clip_config, picture, save_clip
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionModel,
)

from llmbind_cli.errors import ConfigurationError, IntegrityError, ModelNotFoundError
from llmbind_cli.model.config import VisionNetwork
from llmbind_cli.model.vision import networks
from llmbind_cli.model.vision.networks import NetworkLoader
from llmbind_cli.nn.efficientnet_lite import EfficientNetLite0


def entry(family, source, side_px, fit, **more) -> VisionNetwork:
    return VisionNetwork(
        family=family, source=str(source), sha256=None, side_px=side_px, fit=fit, **more
    )


def squares(count: int, side: int) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("side", "tokens"), [(28, 4), (42, 9)])
def test_clip_gives_the_patches_of_one_layer_as_llava_takes_them(loader, tmp_path, side, tokens):
    folder = save_clip(tmp_path / "clip", image_size=side)
    tower = loader.tower(entry("clip", folder, side, "pad"))
    assert (tower.num_tokens, tower.width) == (tokens, 16)
    pixels = squares(2, side)
    expected = CLIPVisionModel.from_pretrained(folder)(pixels, output_hidden_states=True)
    features = tower(pixels)
    assert features.shape == (2, tokens, 16)
    torch.testing.assert_close(features, expected.hidden_states[-2][:, 1:])


@pytest.mark.parametrize(("side", "tokens"), [(224, 256), (336, 576)])
def test_the_sizes_of_clip_vit_l_give_its_token_counts(side, tokens):
    from transformers import CLIPVisionConfig

    from llmbind_cli.model.vision.networks import preprocessing_of
    from llmbind_cli.model.vision.towers import ViTTower

    config = CLIPVisionConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=side,
        patch_size=14,
    )
    with torch.device("meta"):
        network = CLIPVisionModel(config)
    tower = ViTTower(
        network, preprocessing=preprocessing_of(entry("clip", "", side, "pad")), layer=-2
    )
    assert (tower.num_tokens, tower.width) == (tokens, 1024)


def test_siglip_has_no_class_token_to_leave_out(loader, siglip):
    tower = loader.tower(entry("siglip", siglip, 32, "stretch", layer=-1))
    pixels = squares(2, 32)
    expected = SiglipVisionModel.from_pretrained(siglip)(pixels, output_hidden_states=True)
    features = tower(pixels)
    assert features.shape == (2, tower.num_tokens, 16)
    assert tower.num_tokens == 4
    torch.testing.assert_close(features, expected.hidden_states[-1])


def test_a_whole_clip_and_a_llava_hold_the_same_tower(loader, tmp_path):
    plain = save_clip(tmp_path / "plain")
    vision = CLIPVisionModel.from_pretrained(plain)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    whole = CLIPModel(
        CLIPConfig(
            vision_config=clip_config().to_dict(),
            text_config=text | {"num_attention_heads": 2, "vocab_size": 99},
        )
    )
    whole.vision_model.load_state_dict(vision.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=clip_config(),
            text_config=LlamaConfig(**text, num_attention_heads=2, vocab_size=99),
            image_token_index=98,
        )
    )
    llava.model.vision_tower.load_state_dict(vision.state_dict())
    llava.save_pretrained(tmp_path / "llava")
    pixels = squares(1, 28)
    expected = loader.tower(entry("clip", plain, 28, "pad"))(pixels)
    for name in ("whole", "llava"):
        given = loader.tower(entry("clip", tmp_path / name, 28, "pad"))(pixels)
        torch.testing.assert_close(given, expected, msg=name)


def test_efficientnet_folds_finer_cells_into_coarser_ones(loader, efficientnet):
    tower = loader.tower(entry("efficientnet-lite0", efficientnet, 96, "corner", strides=(16, 32)))
    assert tower.num_tokens == 9
    assert tower.width == 4 * 112 + 1280 + 2
    pixels = squares(2, 96)
    features = tower(pixels)
    assert features.shape == (2, tower.num_tokens, tower.width)
    maps = tower.network.feature_maps(pixels)
    assert {stride: m.shape[1:] for stride, m in maps.items()} == {
        4: (24, 24, 24),
        8: (40, 12, 12),
        16: (112, 6, 6),
        32: (1280, 3, 3),
    }
    # Token 5 is row 1, column 2 of the coarse map; its last two numbers say so.
    assert features[0, 5, -2:].tolist() == [0.0, 1.0]
    coarse = maps[32][1, :, 1, 2]
    normalised = (coarse - coarse.mean()) / (coarse.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(features[1, 5, 4 * 112 : -2], normalised, atol=1e-5, rtol=1e-4)
    fine = maps[16][1, :, 2:4, 4:6]  # the four cells in it
    fine = (fine - fine.mean(0)) / (fine.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(features[1, 5, : 4 * 112], fine.flatten(), atol=1e-5, rtol=1e-4)


def test_tokens_may_tell_the_colours_of_their_cells(loader, efficientnet):
    settings = {"side_px": 64, "fit": "corner", "strides": (32,)}
    plain, coloured = (
        loader.tower(entry("efficientnet-lite0", efficientnet, **settings, cell_colours=told))
        for told in (False, True)
    )
    assert coloured.num_beside == plain.num_beside + 48
    pixels = squares(2, 64)
    without, features = plain(pixels), coloured(pixels)
    assert features.shape == (2, coloured.num_tokens, coloured.width)
    torch.testing.assert_close(features[..., :1280], without[..., :1280])
    torch.testing.assert_close(features[..., -2:], without[..., -2:])
    # Token 2 is the lower left cell; its sixteen parts of 8 px, for each of three channels.
    parts = features[1, 2, 1280:-2].reshape(3, 4, 4)
    torch.testing.assert_close(parts[1, 0, 3], pixels[1, 1, 32:40, 24:32].mean())


def test_the_coarsest_map_is_what_the_pooled_features_are_the_mean_of():
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    pictures = torch.rand(2, 3, 64, 64)
    maps = network.feature_maps((pictures - network.mean) / network.deviation)
    torch.testing.assert_close(maps[32].mean((2, 3)), network(pictures), rtol=1e-4, atol=1e-5)


def test_networks_that_two_entries_share_are_loaded_once(loader, efficientnet):
    tower = loader.tower(entry("efficientnet-lite0", efficientnet, 64, "corner"))
    grounding = loader.grounding(entry("efficientnet-lite0", efficientnet, 64, "corner"))
    assert tower.network is grounding.network
    assert grounding.channels == (24, 40, 112, 1280)


def test_a_deferred_network_is_loaded_by_the_first_picture(efficientnet, loader, monkeypatch):
    deferred = NetworkLoader(
        bundle=None, device=torch.device("cpu"), dtype=torch.float32, offline=True, deferred=True
    )
    light = entry("efficientnet-lite0", efficientnet, 64, "corner")
    usual, loaded = loader.tower(light), []
    load = networks.load_efficientnet
    monkeypatch.setattr(networks, "load_efficientnet", lambda f: loaded.append(f) or load(f))
    tower, grounding = deferred.tower(light), deferred.grounding(light)
    assert (loaded, tower.width) == ([], usual.width)
    pixels = tower.preprocessing(picture(64, 64))[None]
    seen, maps = tower(pixels), grounding(pixels)
    assert len(loaded) == 1
    torch.testing.assert_close(seen, usual(pixels))
    assert not any(p.requires_grad for p in tower.parameters())
    assert [m.shape[1] for m in maps] == list(grounding.channels)


def test_a_deferred_network_that_is_not_there_is_told_by_the_first_picture(tmp_path):
    deferred = NetworkLoader(
        bundle=None, device=torch.device("cpu"), dtype=torch.float32, offline=True, deferred=True
    )
    tower = deferred.tower(entry("efficientnet-lite0", tmp_path / "none", 64, "corner"))
    with pytest.raises(ModelNotFoundError):
        tower(tower.preprocessing(picture(64, 64))[None])


def test_frozen_networks_take_no_gradient(loader, clip):
    tower = loader.tower(entry("clip", clip, 28, "pad"))
    assert not any(p.requires_grad for p in tower.parameters())


def test_settings_that_do_not_fit_name_the_network(loader, clip, efficientnet):
    with pytest.raises(ConfigurationError, match="side_px must be the network's 28, got 30"):
        loader.tower(entry("clip", clip, 30, "pad"))
    with pytest.raises(ConfigurationError, match=r"layer must lie in \[-4, 3\], got -9"):
        loader.tower(entry("clip", clip, 28, "pad", layer=-9))
    with pytest.raises(ConfigurationError, match="multiple of 32, got 100"):
        loader.tower(entry("efficientnet-lite0", efficientnet, 100, "corner"))
    with pytest.raises(ConfigurationError, match="strides must be some of 4, 8, 16, 32"):
        loader.tower(entry("efficientnet-lite0", efficientnet, 64, "corner", strides=(32, 16)))
    with pytest.raises(ConfigurationError, match="family must be one of sam"):
        loader.grounding(entry("clip", clip, 28, "corner"))
    with pytest.raises(ConfigurationError, match="needs the fit corner"):
        loader.grounding(entry("efficientnet-lite0", efficientnet, 64, "pad"))


def test_weights_that_are_missing_or_others_are_refused(loader, tmp_path, siglip):
    folder = save_clip(tmp_path / "clip")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("mlp.fc1.weight"))
    save_file({k: t for k, t in tensors.items() if k != name}, weights, {"format": "pt"})
    with pytest.raises(IntegrityError, match="1 weights of the clip network are missing"):
        loader.tower(entry("clip", folder, 28, "pad"))
    with pytest.raises(IntegrityError, match="holds a siglip_vision_model, not a clip network"):
        loader.tower(entry("clip", siglip, 32, "pad"))
    other = tmp_path / "other"
    other.mkdir()
    save_file({"weight": torch.zeros(2)}, other / "model.safetensors")
    with pytest.raises(IntegrityError, match="not the weights of EfficientNet-lite0"):
        loader.tower(entry("efficientnet-lite0", other, 64, "corner"))


def test_a_pinned_hash_is_checked(loader, clip):
    pinned = VisionNetwork(family="clip", source=str(clip), sha256="0" * 64, side_px=28, fit="pad")
    with pytest.raises(IntegrityError, match="sha256"):
        loader.tower(pinned)
    assert json.loads((clip / "config.json").read_text())["image_size"] == 28


def test_a_picture_becomes_features(loader, clip):
    tower = loader.tower(entry("clip", clip, 28, "pad"))
    features = tower(tower.preprocessing(picture(50, 20))[None])
    assert features.shape == (1, 4, 16)
