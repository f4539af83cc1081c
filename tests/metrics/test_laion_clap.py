"""CLAP checkpoints in laion_clap's own layout, beside transformers' and beside laion_clap."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny_laion_clap as tiny
import torch
from tiny_pipeline_parts import roberta_tokenizer

from llmbind_cli.errors import IntegrityError, ModelNotFoundError
from llmbind_cli.metrics.extractors.clap import TOKENIZER_FOLDER
from llmbind_cli.metrics.extractors.extractor import Sound
from llmbind_cli.metrics.extractors.registry import load_extractor

CPU = torch.device("cpu")
WORDS = ["cat", "a cat", "c a t cat"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def network():
    return tiny.clap()


def loaded(source):
    return load_extractor("clap-htsat", chosen={"clap-htsat": source}, device=CPU, offline=True)


def sounds(*lengths_s, rate=tiny.RATE_HZ):
    generator = np.random.default_rng(0)
    made = []
    for number, seconds in enumerate(lengths_s):
        times = np.arange(int(seconds * rate)) / rate
        wave = np.sin(2 * np.pi * 220 * (number + 1) * times) * np.exp(-times)
        samples = 0.3 * wave + generator.normal(0, 0.01 * (number + 1), len(times))
        made.append(Sound(samples=samples[None].astype(np.float32), sample_rate_hz=rate))
    return made


def sounds_of(extractor, media):
    return extractor.extract([extractor.prepare(medium) for medium in media]).features


@pytest.mark.parametrize("trained", [True, False])
def test_the_same_weights_give_the_vectors_of_transformers(tmp_path, network, trained):
    extractor = loaded(
        tiny.save_checkpoint(tiny.laion_state(network), tmp_path / "clap.pt", trained=trained)
    )
    roberta_tokenizer().save_pretrained(tmp_path / TOKENIZER_FOLDER)
    media = sounds(1.7, 10)
    raw = [sound.samples[0] for sound in media]
    inputs = extractor.front_end(raw, sampling_rate=tiny.RATE_HZ, return_tensors="pt")
    tokens = roberta_tokenizer()(WORDS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = network(**inputs, **tokens)
    heard, read = sounds_of(extractor, media), extractor.embed_texts(WORDS)
    np.testing.assert_allclose(heard, output.audio_embeds, atol=1e-5)  # float32
    np.testing.assert_allclose(read, output.text_embeds, atol=1e-5)
    assert np.ptp(heard, axis=0).max() > 0.01
    assert np.ptp(read, axis=0).max() > 0.01
    for name, weight in network.state_dict().items():
        assert torch.equal(extractor.network.state_dict()[name], weight), name


@pytest.mark.filterwarnings("ignore")  # of the package, at import
def test_sounds_and_words_equal_laion_clap_on_the_same_checkpoint(tmp_path, monkeypatch):
    reason = "laion_clap needs a torchvision that loads; neither is a dependency"
    theirs, features = laion_clap_network(monkeypatch, reason)
    state = theirs.state_dict()
    state["text_branch.embeddings.position_ids"] = torch.arange(40)[None]  # as of its time
    extractor = loaded(tiny.save_checkpoint(state, tmp_path / "630k.pt"))
    roberta_tokenizer().save_pretrained(tmp_path / TOKENIZER_FOLDER)
    media = sounds(3.3, 10, 0.4)
    inputs = [features(torch.from_numpy(sound.samples[0])) for sound in media]
    tokens = roberta_tokenizer()(WORDS, padding="max_length", max_length=30, return_tensors="pt")
    with torch.inference_mode():
        heard = theirs.get_audio_embedding(inputs).numpy()
        read = theirs.get_text_embedding(dict(tokens)).numpy()
    # float32, and log-mels whose Fourier transform is a matrix there
    np.testing.assert_allclose(sounds_of(extractor, media), heard, atol=1e-4)
    np.testing.assert_allclose(extractor.embed_texts(WORDS), read, atol=1e-5)
    assert np.ptp(heard, axis=0).max() > 0.01
    assert np.ptp(read, axis=0).max() > 0.01


def laion_clap_network(monkeypatch, reason):
    """laion_clap's network, small, without the weights that its constructor would fetch."""
    import transformers

    with monkeypatch.context() as patched:  # its import asks the Hub for three tokenizers
        for name in ("BertTokenizer", "RobertaTokenizer", "BartTokenizer"):
            tokenizer = getattr(transformers, name)
            patched.setattr(tokenizer, "from_pretrained", lambda *_, **__: None)
        model, htsat, reading = (
            pytest.importorskip(
                f"laion_clap.{name}", reason=reason, exc_type=(ImportError, RuntimeError)
            )
            for name in ("clap_module.model", "clap_module.htsat", "training.data")
        )
    from transformers import RobertaConfig, RobertaModel

    def small_text_branch(_):
        config = RobertaConfig(
            vocab_size=len(roberta_tokenizer()),
            intermediate_size=24,
            num_hidden_layers=2,
            max_position_embeddings=40,
            type_vocab_size=1,
            layer_norm_eps=1e-5,  # of roberta-base
        )
        return RobertaModel(config)

    def small_audio_branch(audio_cfg, *_):
        return htsat.HTSAT_Swin_Transformer(
            embed_dim=8, depths=[2, 4], num_heads=[2, 4], config=audio_cfg
        )

    monkeypatch.setattr(model.RobertaModel, "from_pretrained", small_text_branch)
    monkeypatch.setattr(model, "create_htsat_model", small_audio_branch)
    audio = {"model_type": "HTSAT", "model_name": "tiny", "hop_size": 480}
    text = {"context_length": 77, "vocab_size": 0, "width": 0, "heads": 0, "layers": 0}
    torch.manual_seed(0)
    network = model.CLAP(
        embed_dim=16,
        audio_cfg=audio,
        text_cfg={**text, "model_type": "roberta"},
        joint_embed_shape=12,
    )
    tiny.enliven(network)

    def features(waveform):
        config = {"sample_rate": tiny.RATE_HZ, "hop_size": 480, "window_size": 1024}
        return reading.get_audio_features({}, waveform, 480_000, "rand_trunc", "repeatpad", config)

    return network.eval(), features


def test_sounds_need_no_tokenizer_and_words_say_where_it_belongs(tmp_path, network):
    extractor = loaded(tiny.save_checkpoint(tiny.laion_state(network), tmp_path / "clap.pt"))
    assert sounds_of(extractor, sounds(0.5)).shape == (1, 12)
    with pytest.raises(ModelNotFoundError, match=rf"roberta-base into {re.escape(str(tmp_path))}"):
        extractor.embed_texts(["cat"])
    (tmp_path / TOKENIZER_FOLDER).mkdir()
    with pytest.raises(IntegrityError, match="tokenizer"):
        extractor.embed_texts(["cat"])


NORM = "audio_branch.layers.1.blocks.3.norm2.bias"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda s: s.update({"audio_branch.patch_embed.mel_conv2d.bias": torch.zeros(8)}),
            "is a CLAP with fusion, which hears random parts of a sound",
        ),
        (
            lambda s: s.update({"audio_branch.patch_embed.proj.weight": torch.zeros(8, 4, 4, 4)}),
            "is a CLAP with fusion, which hears random parts of a sound",
        ),
        (
            lambda s: s.update({"audio_branch.absolute_pos_embed": torch.zeros(1, 4096, 8)}),
            "audio_branch.absolute_pos_embed is unexpected",
        ),
        (
            lambda s: s.pop(NORM),
            "audio_model.audio_encoder.layers.1.blocks.3.layernorm_after.bias is missing",
        ),
        (lambda s: s.update({NORM: torch.full((16,), torch.nan)}), "contains NaN"),
        (
            lambda s: s.update({NORM: torch.zeros(8)}),
            "layernorm_after.bias has shape (8,), expected (16,)",
        ),
        (
            lambda s: s.pop("text_branch.embeddings.word_embeddings.weight"),
            "text_branch.embeddings.word_embeddings.weight is missing",
        ),
        (
            lambda s: s["audio_branch.logmel_extractor.melW"].mul_(2),
            "audio_branch.logmel_extractor.melW is not that of 50 to 14000 Hz at 48000 Hz",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("audio_branch.")],
            "lacks config.json, and is no checkpoint of laion_clap either",
        ),
    ],
)
def test_what_is_no_such_checkpoint_is_refused_by_name(tmp_path, network, change, reason):
    state = tiny.laion_state(network)
    change(state)
    with pytest.raises(IntegrityError, match=re.escape(reason)):
        loaded(tiny.save_checkpoint(state, tmp_path / "clap.pt"))


def test_a_pickled_checkpoint_needs_its_hash(tmp_path, network):
    tiny.save_checkpoint(tiny.laion_state(network), tmp_path / "clap.pt")
    with pytest.raises(IntegrityError, match="convert it once by its hash"):
        loaded(str(tmp_path / "clap.pt"))
