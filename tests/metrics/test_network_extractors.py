"""Extractors on small random networks, beside other code on the same weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny_extractors as tiny
import torch
from PIL import Image
from torch.nn import functional

from llmbind_cli.errors import IntegrityError
from llmbind_cli.metrics.extractors import inception_network
from llmbind_cli.metrics.extractors.clap import ClapExtractor
from llmbind_cli.metrics.extractors.clip import ClipExtractor
from llmbind_cli.metrics.extractors.dinov2 import Dinov2Extractor
from llmbind_cli.metrics.extractors.extractor import Sound
from llmbind_cli.metrics.extractors.inception import InceptionExtractor
from llmbind_cli.metrics.extractors.panns import Cnn14Extractor
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.metrics.similarity import cosines

CPU = torch.device("cpu")


def located(folder, name="a network"):
    return LocatedWeights(name=name, folder=folder, source=str(folder), sha256="0" * 64)


def pictures(sizes=((40, 30), (30, 40), (32, 32), (97, 64))):
    generator = np.random.default_rng(0)
    made = []
    for width, height in sizes:
        y, x = np.mgrid[:height, :width]
        waves = [128 + 100 * np.sin(x / 7 + y / k + generator.uniform(0, 6)) for k in (3, 5, 9)]
        made.append(Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)))
    return made


def sounds(lengths=(16_000, 16_000, 40_000), rate=16_000, channels=1):
    generator = np.random.default_rng(0)
    return [
        Sound(
            samples=generator.normal(0, 0.2, (channels, n)).astype(np.float32), sample_rate_hz=rate
        )
        for n in lengths
    ]


def rows_of(extractor, media):
    return extractor.extract([extractor.prepare(medium) for medium in media])


def saved(state, tmp_path):
    return located(tiny.save_file_of(state, tmp_path / "w" / "model.safetensors").parent)


# ------------------------------------------------------------------ Inception-v3


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inception")
    return InceptionExtractor(saved(tiny.inception_state(), folder), device=CPU)


def test_inception_has_the_published_shape():
    shapes = inception_network.checkpoint_shapes()
    assert sum(int(np.prod(shape)) for key, shape in shapes.items() if "running" not in key) == (
        # torchvision's inception_v3(num_classes=1008, aux_logits=False)
        23_850_960
    )
    assert shapes["fc.weight"] == (1008, 2048)
    assert shapes["Mixed_6b.branch7x7dbl_3.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)


def test_inception_logits_are_features_by_weights_without_bias(inception):
    features, logits = rows_of(inception, pictures())
    weight = inception.network.fc.weight.detach().double().numpy()
    np.testing.assert_allclose(logits, features @ weight.T, rtol=1e-4, atol=1e-4)  # float32
    assert features.shape == (4, inception.network.fc.in_features)
    assert np.ptp(features, axis=0).max() > 0.01


def test_a_picture_s_row_does_not_depend_on_the_others(inception):
    media = pictures()
    together = rows_of(inception, media).features
    alone = np.concatenate([rows_of(inception, [picture]).features for picture in media])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)  # float32


def test_inception_equals_pytorch_fid_on_the_same_weights(tmp_path, monkeypatch):
    reason = "pytorch-fid needs a torchvision that loads; neither is a dependency"
    fid = pytest.importorskip(
        "pytorch_fid.inception", reason=reason, exc_type=(ImportError, RuntimeError)
    )
    state = tiny.random_state(inception_network.checkpoint_shapes())
    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = fid.InceptionV3([3]).eval()
    ours = InceptionExtractor(saved(state, tmp_path), device=CPU)
    media = pictures()[:2]
    for row, picture in zip(rows_of(ours, media).features, media, strict=True):
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            expected = theirs(pixels)[0][0, :, 0, 0].double().numpy()
        np.testing.assert_allclose(row, expected, atol=1e-4, rtol=1e-5)  # folding, float32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("Mixed_6b.branch1x1.bn.bias"), "Mixed_6b.branch1x1.bn.bias is missing"),
        (lambda s: s.pop("fc.weight"), "fc.weight is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is unexpected"),
        (lambda s: s["fc.weight"].fill_(torch.nan), "fc.weight contains NaN"),
        (
            lambda s: s.update({"Mixed_5b.branch5x5_2.conv.weight": torch.zeros(4, 3, 3, 3)}),
            "Mixed_5b.branch5x5_2.conv.weight has shape (4, 3, 3, 3), expected (4, 3, 5, 5)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, reason):
    state = tiny.inception_state()
    change(state)
    with pytest.raises(IntegrityError, match=re.escape(reason)):
        InceptionExtractor(saved(state, tmp_path), device=CPU)


# ------------------------------------------------------------------ Cnn14


@pytest.fixture(params=[16_000, 32_000])
def cnn14(request, tmp_path):
    weights = saved(tiny.cnn14_state(request.param), tmp_path)
    return Cnn14Extractor(weights, device=CPU, sample_rate_hz=request.param)


def literal_log_mel(samples, rate):
    """Mirror, cut into frames, window, Fourier, power, mel, decibels: one frame at a time."""
    window, hop, low, high = {
        16_000: (512, 160, 50.0, 8000.0),
        32_000: (1024, 320, 50.0, 14_000.0),
    }[rate]
    mirrored = np.pad(samples.astype(np.float64), window // 2, mode="reflect")
    hann = np.hanning(window + 1)[:-1]
    mel = tiny.slaney_mel(rate, window, tiny.MEL_BANDS, low, high)
    rows = []
    for start in range(0, len(mirrored) - window + 1, hop):
        power = np.abs(np.fft.rfft(mirrored[start : start + window] * hann)) ** 2
        rows.append(10 * np.log10(np.maximum(power @ mel, 1e-10)))
    return np.array(rows)


def test_the_log_mel_front_end_equals_the_literal_formula(cnn14):
    (sound,) = sounds([33_000], rate=cnn14.sample_rate_hz)
    heard = cnn14.prepare(sound)
    with torch.inference_mode():
        ours = cnn14.network.log_mel(torch.from_numpy(heard)[None])[0].numpy()
    expected = literal_log_mel(heard, cnn14.sample_rate_hz)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=2e-3)  # decibels; float32 sums of 512 squares


def literal_cnn14(state, log_mel):
    """The rest of the network, layer by layer from the checkpoint: [T, M] → features, logits."""

    def norm(x, name):
        parts = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts)

    x = torch.from_numpy(log_mel).float()[None, None]  # [1, 1, T, M]
    x = norm(x.transpose(1, 3), "bn0").transpose(1, 3)
    for number in range(1, 7):
        for part in (1, 2):
            x = functional.conv2d(x, state[f"conv_block{number}.conv{part}.weight"], padding=1)
            x = norm(x, f"conv_block{number}.bn{part}").relu()
        if number < 6:
            x = functional.avg_pool2d(x, 2)
    x = x.mean(dim=3)
    x = x.max(dim=2).values + x.mean(dim=2)
    features = functional.linear(x, state["fc1.weight"], state["fc1.bias"]).relu()
    logits = functional.linear(features, state["fc_audioset.weight"], state["fc_audioset.bias"])
    return features[0].numpy(), logits[0].numpy()


def test_cnn14_equals_its_layers_one_by_one(cnn14):
    media = sounds((5000, 50_000), rate=cnn14.sample_rate_hz, channels=2)
    features, logits = rows_of(cnn14, media)
    state = tiny.cnn14_state(cnn14.sample_rate_hz)
    for row, scores, sound in zip(features, logits, media, strict=True):
        first = sound.samples[0] - sound.samples[0].mean()
        padded = np.pad(first, (0, max(0, 32_000 - len(first))))
        expected = literal_cnn14(state, literal_log_mel(padded, cnn14.sample_rate_hz))
        np.testing.assert_allclose(row, expected[0], rtol=1e-3, atol=1e-3)  # float32, 13 layers
        np.testing.assert_allclose(scores, expected[1], rtol=1e-3, atol=1e-3)
    assert np.ptp(features, axis=0).max() > 1e-3


def test_sounds_of_one_length_go_together_and_rows_keep_their_order(cnn14):
    media = sounds((40_000, 40_000, 33_000, 40_000), rate=cnn14.sample_rate_hz)
    together = rows_of(cnn14, media).features
    alone = np.concatenate([rows_of(cnn14, [sound]).features for sound in media])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)  # float32


def test_the_official_checkpoint_of_the_other_rate_is_refused(tmp_path):
    weights = saved(tiny.cnn14_state(32_000), tmp_path)
    with pytest.raises(IntegrityError, match=r"conv_real.weight has shape \(513, 1, 1024\)"):
        Cnn14Extractor(weights, device=CPU, sample_rate_hz=16_000)


# ------------------------------------------------------------------ transformers' networks


def test_dinov2_is_the_class_token_of_dgm_eval_s_preprocessing(tmp_path):
    from transformers import Dinov2Model

    folder = tiny.dinov2_folder(tmp_path)
    extractor = Dinov2Extractor(located(folder), device=CPU)
    media = pictures()
    ours = rows_of(extractor, media).features
    network = Dinov2Model.from_pretrained(folder).eval()
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for row, picture in zip(ours, media, strict=True):
        pixels = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC)) / 255
        batch = torch.from_numpy((pixels - mean) / deviation).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            expected = network(batch).pooler_output[0].double().numpy()
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)  # float32
    assert np.ptp(ours, axis=0).max() > 1e-3


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tiny.clip_folder(tmp_path_factory.mktemp("clip"))
    return ClipExtractor(located(folder), device=CPU)


def test_clip_equals_transformers_by_hand(clip):
    from transformers import CLIPModel
    from transformers.models.clip import image_processing_pil_clip as pil

    processor = pil.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    network = CLIPModel.from_pretrained(clip.weights.folder).eval()
    media, words = pictures(), ["cat", "a dog", "cat dog cat"]
    with torch.inference_mode():
        pixels = processor(media, return_tensors="pt")["pixel_values"]
        seen = network.vision_model(pixel_values=pixels).pooler_output
        tokens = clip.tokenizer(words, padding=True, return_tensors="pt")
        output = network(pixel_values=pixels, **tokens)
    prepared = [clip.prepare(picture) for picture in media]
    # float32, and bytes that round alike
    np.testing.assert_allclose(clip.extract(prepared).features, seen.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(clip.embed_pictures(prepared), output.image_embeds, atol=1e-5)
    np.testing.assert_allclose(clip.embed_texts(words), output.text_embeds, atol=1e-5)


def test_clip_score_equals_torchmetrics_after_its_scaling(clip):
    module = pytest.importorskip("torchmetrics.multimodal.clip_score", reason="an extra: eval")
    load = lambda: tiny.clip_for_torchmetrics(clip.weights.folder)  # noqa: E731
    metric = module.CLIPScore(model_name_or_path=load)
    media, words = pictures(), ["cat", "a dog", "cat dog cat", "b"]
    batch = [torch.from_numpy(np.asarray(p).copy()).permute(2, 0, 1) for p in media]
    metric.update(batch, words)
    theirs = float(metric.score / metric.n_samples) / 100  # before it is cut off at 0
    seen = clip.embed_pictures([clip.prepare(picture) for picture in media])
    assert cosines(seen, clip.embed_texts(words)).mean() == pytest.approx(theirs, abs=1e-5)


def test_a_text_over_the_limit_is_never_cut(clip):
    with pytest.raises(ValueError, match="more than the 16 that CLIP reads"):
        clip.embed_texts(["a b c d e f g h i j k l m n o p"])
    assert clip.count_tokens("cat") == 3


def test_a_very_wide_picture_does_not_fill_memory(clip):
    assert clip.prepare(Image.new("RGB", (20_000, 10))).shape == (32, 32, 3)


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    folder = tiny.clap_folder(tmp_path_factory.mktemp("clap"))
    return ClapExtractor(located(folder), device=CPU)


def test_clap_equals_transformers_by_hand(clap):
    from transformers import ClapModel

    network = ClapModel.from_pretrained(clap.weights.folder).eval()
    media = sounds((5000, 8000, 16_000), rate=8000)
    raw = [sound.samples[0] for sound in media]
    inputs = clap.front_end(raw, sampling_rate=8000, return_tensors="pt")
    tokens = clap.tokenizer(["cat", "a cat"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = network(**inputs, **tokens)
    ours = rows_of(clap, media).features
    np.testing.assert_allclose(ours, output.audio_embeds, atol=1e-5)  # float32
    np.testing.assert_allclose(clap.embed_texts(["cat", "a cat"]), output.text_embeds, atol=1e-5)


def test_clap_hears_the_beginning_of_a_long_sound_every_time(clap):
    (long,) = sounds([40_000], rate=8000)
    beginning = Sound(samples=long.samples[:, :16_000], sample_rate_hz=8000)
    first, second = rows_of(clap, [long]).features, rows_of(clap, [long]).features
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, rows_of(clap, [beginning]).features, atol=1e-6)


def test_a_clap_with_fusion_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="with fusion"):
        ClapExtractor(located(tiny.clap_folder(tmp_path, fusion=True)), device=CPU)


def test_transformers_weights_with_a_gap_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny.dinov2_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"layernorm\.weight is missing"):
        Dinov2Extractor(located(folder), device=CPU)


def test_the_tokenizer_of_another_network_is_refused(tmp_path):
    clip = ClipExtractor(located(tiny.clip_folder(tmp_path)), device=CPU)
    known = len(clip.tokenizer)
    clip.network.text_model.resize_token_embeddings(known - 1)
    other = ClipExtractor(located(tmp_path), device=CPU)
    other.network, other.weights = clip.network, clip.weights
    with pytest.raises(IntegrityError, match=f"has {known} tokens, and the network knows"):
        other.count_tokens("cat")


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    folder = tiny.clip_folder(tmp_path)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    with pytest.raises(IntegrityError, match="tokenizer"):
        ClipExtractor(located(folder), device=CPU).embed_texts(["cat"])
