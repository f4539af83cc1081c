"""Rows of ``benchmarks/metrics.py`` for scores by networks, on small random ones.

The networks are saved in the layouts of the published weights and loaded by both sides. They say
nothing of the quality of a figure: only whether two programs make the same of the same weights.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import tiny_extractors as tiny

from llmbind_cli.metrics.extractors import inception_network, lpips
from llmbind_cli.metrics.extractors.clap import ClapExtractor
from llmbind_cli.metrics.extractors.clip import ClipExtractor
from llmbind_cli.metrics.extractors.extractor import Sound
from llmbind_cli.metrics.extractors.inception import InceptionExtractor
from llmbind_cli.metrics.extractors.panns import Cnn14Extractor
from llmbind_cli.metrics.extractors.published import LocatedWeights
from llmbind_cli.metrics.frechet import frechet_distance_from_features
from llmbind_cli.metrics.resampling import resample
from llmbind_cli.metrics.similarity import cosines

CPU = torch.device("cpu")
WORDS = ["cat", "dog", "a cat", "a dog"]
Way = Callable[[], float]
Row = tuple[str, str, Way, Callable[[], Way]]


@cache
def folder() -> Path:
    """Return the folder of the networks, which lasts as long as the program."""
    return Path(tempfile.mkdtemp(prefix="llmbind-benchmark-"))


def located(place: Path, name: str) -> LocatedWeights:
    """Return a saved network as extractors take it."""
    return LocatedWeights(name=name, folder=place, source=str(place), sha256="0" * 64)


def pictures(n: int = 4, side: int = 96) -> list[Image.Image]:
    """Return smooth pictures of a seed."""
    y, x = np.mgrid[:side, : side + 20]
    made = []
    for number in range(n):
        waves = [128 + 100 * np.sin(x / (5 + number) + y / k) for k in (7, 11, 13)]
        made.append(Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)))
    return made


def sounds(rate: int, n: int = 4) -> list[Sound]:
    """Return noises of a seed, 1.5 s long."""
    generator = np.random.default_rng(0)
    made = [generator.normal(0, 0.1, (1, rate * 3 // 2)).astype(np.float32) for _ in range(n)]
    return [Sound(samples=samples, sample_rate_hz=rate) for samples in made]


def picture_rows() -> Iterator[Row]:
    """FID on one network, CLIP score, LPIPS."""
    state = tiny.random_state(inception_network.checkpoint_shapes())
    place = tiny.save_file_of(state, folder() / "inception" / "m.safetensors").parent
    ours = InceptionExtractor(located(place, "inception-v3"), device=CPU)
    media = pictures()

    def pool3() -> float:
        rows = ours.extract([ours.prepare(picture) for picture in media]).features
        return float(np.abs(rows).mean())

    def by_pytorch_fid() -> Way:
        from pytorch_fid import inception as fid

        fid.load_state_dict_from_url = lambda *_, **__: state
        network = fid.InceptionV3([3]).eval()
        batch = torch.stack(
            [torch.from_numpy(np.asarray(p).copy()).permute(2, 0, 1).float() / 255 for p in media]
        )

        def mean() -> float:
            with torch.inference_mode():
                return float(network(batch)[0].double().abs().mean())

        return mean

    yield "Inception pool3, mean size", "pytorch-fid", pool3, by_pytorch_fid
    yield from _clip_rows(media)
    yield from _lpips_rows(media)


def _clip_rows(media: list[Image.Image]) -> Iterator[Row]:
    clip = ClipExtractor(located(tiny.clip_folder(folder() / "clip"), "clip-vit-b32"), device=CPU)

    def score() -> float:
        seen = clip.embed_pictures([clip.prepare(picture) for picture in media])
        return float(cosines(seen, clip.embed_texts(WORDS)).mean())

    def by_transformers() -> Way:
        from transformers import CLIPModel
        from transformers.models.clip import image_processing_pil_clip as pil

        network = CLIPModel.from_pretrained(clip.weights.folder).eval()
        processor = pil.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )

        def mean() -> float:
            pixels = processor(media, return_tensors="pt")["pixel_values"]
            tokens = clip.tokenizer(WORDS, padding=True, return_tensors="pt")
            with torch.inference_mode():
                output = network(pixel_values=pixels, **tokens)
            return float((output.image_embeds * output.text_embeds).sum(dim=1).double().mean())

        return mean

    def by_torchmetrics() -> Way:
        from torchmetrics.multimodal.clip_score import CLIPScore

        metric = CLIPScore(
            model_name_or_path=lambda: tiny.clip_for_torchmetrics(clip.weights.folder)
        )
        batch = [torch.from_numpy(np.asarray(p).copy()).permute(2, 0, 1) for p in media]

        def mean() -> float:
            metric.reset()
            metric.update(batch, WORDS)
            # Its figure is 100 times the cosine and cut off at 0; the sum before is not.
            return float(metric.score / metric.n_samples) / 100

        return mean

    yield "CLIP score", "transformers", score, by_transformers
    yield "CLIP score", "torchmetrics", score, by_torchmetrics


def _lpips_rows(media: list[Image.Image]) -> Iterator[Row]:
    convolutions, heads = tiny.lpips_states("alexnet")
    network = lpips.Lpips(family="alexnet", widths=(64, 192, 384, 256, 256))
    channels = {f"heads.{key[3]}": value for key, value in heads.items()}
    network.load_state_dict(convolutions | channels)
    first, second = (
        torch.stack([torch.from_numpy(np.asarray(p).copy()).permute(2, 0, 1) for p in side]) / 127.5
        - 1
        for side in (media, media[::-1])
    )

    def ours() -> float:
        with torch.inference_mode():
            return float(network.eval()(first, second).double().mean())

    def by_lpips() -> Way:
        import lpips as package

        theirs = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
        state = theirs.state_dict()
        for (key, value), number in zip(
            sorted(convolutions.items(), key=lambda pair: int(pair[0].split(".")[1])),
            [1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
            strict=True,
        ):
            _, index, part = key.split(".")
            state[f"net.slice{number}.{index}.{part}"] = value
        state |= heads | {key.replace("lin", "lins."): value for key, value in heads.items()}
        theirs.load_state_dict(state)

        def mean() -> float:
            with torch.inference_mode():
                return float(theirs(first, second).double().mean())

        return mean

    yield "LPIPS, AlexNet", "lpips", ours, by_lpips


def sound_rows() -> Iterator[Row]:
    """Resampling, the log-mel front end, FD of Cnn14, CLAP score."""
    rate = 16_000
    place = tiny.save_file_of(tiny.cnn14_state(rate), folder() / "cnn14" / "m.safetensors").parent
    weights = located(place, "cnn14-16k")
    cnn14 = Cnn14Extractor(weights, device=CPU, sample_rate_hz=rate)
    media = sounds(rate)
    (long,) = sounds(44_100, n=1)

    def resampled() -> float:
        return float(np.abs(resample(long.samples[0], 44_100, rate)).mean(dtype=np.float64))

    def by_torchaudio() -> Way:
        from torchaudio.functional import resample as theirs

        samples = torch.from_numpy(long.samples[0])
        return lambda: float(theirs(samples, 44_100, rate).double().abs().mean())

    def log_mel() -> float:
        with torch.inference_mode():
            heard = torch.from_numpy(cnn14.prepare(media[0]))[None]
            return float(cnn14.network.log_mel(heard).double().mean())

    def by_numpy() -> Way:
        heard = cnn14.prepare(media[0])
        mel = tiny.slaney_mel(rate, 512, tiny.MEL_BANDS, 50, 8000)
        hann = np.hanning(513)[:-1]

        def mean() -> float:
            mirrored = np.pad(heard.astype(np.float64), 256, mode="reflect")
            frames = np.lib.stride_tricks.sliding_window_view(mirrored, 512)[::160]
            power = np.abs(np.fft.rfft(frames * hann)) ** 2
            return float((10 * np.log10(np.maximum(power @ mel, 1e-10))).mean())

        return mean

    def distance() -> float:
        rows = cnn14.extract([cnn14.prepare(sound) for sound in media]).features
        return frechet_distance_from_features(rows[:2], rows[2:])

    yield "resampling, 44.1 to 16 kHz, mean size", "torchaudio", resampled, by_torchaudio
    yield "Cnn14 log-mel, mean dB", "the literal formula", log_mel, by_numpy
    yield "FD of Cnn14", "SciPy's matrix root", distance, lambda: _by_scipy(cnn14, media)
    yield from _clap_rows()


def _by_scipy(cnn14: Cnn14Extractor, media: list[Sound]) -> Way:
    from scipy import linalg

    def distance() -> float:
        rows = cnn14.extract([cnn14.prepare(sound) for sound in media]).features
        x, y = rows[:2], rows[2:]
        a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
        root = linalg.sqrtm(a @ b).real
        return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root))

    return distance


def _clap_rows() -> Iterator[Row]:
    clap = ClapExtractor(located(tiny.clap_folder(folder() / "clap"), "clap-htsat"), device=CPU)
    media, words = sounds(8000), ["cat", "a cat", "ca", "at"]

    def score() -> float:
        heard = clap.embed_sounds([clap.prepare(sound) for sound in media])
        return float(cosines(heard, clap.embed_texts(words)).mean())

    def by_transformers() -> Way:
        from transformers import ClapModel

        network = ClapModel.from_pretrained(clap.weights.folder).eval()

        def mean() -> float:
            raw = [sound.samples[0] for sound in media]
            inputs: dict[str, Any] = clap.front_end(raw, sampling_rate=8000, return_tensors="pt")
            tokens = clap.tokenizer(words, padding=True, return_tensors="pt")
            with torch.inference_mode():
                output = network(**inputs, **tokens)
            return float((output.audio_embeds * output.text_embeds).sum(dim=1).double().mean())

        return mean

    yield "CLAP score", "transformers", score, by_transformers
