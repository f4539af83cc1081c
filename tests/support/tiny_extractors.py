"""Small random networks, saved as their published weights are, for tests of what loads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from llmbind_cli.metrics.extractors import inception_network

MEL_BANDS = 32
CNN14_CHANNELS = (4, 4, 6, 6, 8, 8)
_CNN14_FRAMES = {16_000: (512, 160, 50.0, 8000.0), 32_000: (1024, 320, 50.0, 14_000.0)}


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights of a size that keeps activations alive; variances above 0."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in sorted(shapes.items()):
        values = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            state[key] = values.abs() + 0.5
        elif len(shape) > 1:
            state[key] = values * (2 / np.prod(shape[1:])) ** 0.5
        else:
            is_scale = "bn" in key and key.endswith("weight")
            state[key] = 0.1 * values + (1.0 if is_scale else 0.0)
    return state


def inception_state(*, divisor: int = 16, classes: int = 20, seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint of pytorch-fid's layout, its channels divided."""
    widths = {key: max(2, value // divisor) for key, value in inception_network.WIDTHS.items()}
    shapes = inception_network.checkpoint_shapes(widths=widths, classes=classes)
    return random_state(shapes, seed)


def fourier_weights(window: int) -> tuple[Tensor, Tensor]:
    """The convolutions of torchlibrosa: windowed cosines and negative sines, [F, 1, window]."""
    k = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * k / window)
    angles = 2 * np.pi * np.outer(np.arange(window // 2 + 1), k) / window
    real, imaginary = np.cos(angles) * hann, -np.sin(angles) * hann
    return tuple(torch.from_numpy(part[:, None]).float() for part in (real, imaginary))  # type: ignore[return-value]


def slaney_mel(rate: int, window: int, bands: int, low: float, high: float) -> np.ndarray:
    """The mel matrix of librosa's defaults, written out: [F, bands]."""

    def to_mel(hz: Any) -> Any:
        hz = np.asarray(hz, dtype=np.float64)
        above = 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4)
        return np.where(hz < 1000, 3 * hz / 200, above)

    def to_hz(mel: Any) -> Any:
        mel = np.asarray(mel, dtype=np.float64)
        return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))

    frequencies = np.arange(window // 2 + 1) * rate / window
    edges = to_hz(np.linspace(to_mel(low), to_mel(high), bands + 2))
    matrix = np.zeros((len(frequencies), bands))
    for band in range(bands):
        left, middle, right = edges[band : band + 3]
        rising = (frequencies - left) / (middle - left)
        falling = (right - frequencies) / (right - middle)
        matrix[:, band] = np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)
    return matrix


def cnn14_state(rate: int, *, classes: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint of PANNs' layout, with the true front end and small blocks."""
    window, _, low, high = _CNN14_FRAMES[rate]
    shapes: dict[str, tuple[int, ...]] = {}
    norms = ("weight", "bias", "running_mean", "running_var")
    shapes |= {f"bn0.{part}": (MEL_BANDS,) for part in norms}
    inputs = 1
    for number, outputs in enumerate(CNN14_CHANNELS, start=1):
        block = f"conv_block{number}"
        shapes[f"{block}.conv1.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{block}.conv2.weight"] = (outputs, outputs, 3, 3)
        shapes |= {f"{block}.bn{n}.{part}": (outputs,) for n in (1, 2) for part in norms}
        inputs = outputs
    shapes |= {"fc1.weight": (10, inputs), "fc1.bias": (10,)}
    shapes |= {"fc_audioset.weight": (classes, 10), "fc_audioset.bias": (classes,)}
    state = random_state(shapes, seed)
    state["bn0.running_mean"] -= 30  # decibels
    state["bn0.running_var"] *= 400
    real, imaginary = fourier_weights(window)
    state["spectrogram_extractor.stft.conv_real.weight"] = real
    state["spectrogram_extractor.stft.conv_imag.weight"] = imaginary
    mel = slaney_mel(rate, window, MEL_BANDS, low, high)
    state["logmel_extractor.melW"] = torch.from_numpy(mel).float()
    return state


def vggish_state(seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint of torchvggish's layout, with few channels."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels, places = (1, 4, 4, 6, 6, 8, 8), (0, 3, 6, 8, 11, 13)
    for place, inputs, outputs in zip(places, channels, channels[1:], strict=False):
        shapes[f"features.{place}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{place}.bias"] = (outputs,)
    widths = (8 * 24, 12, 10, 5)
    for place, inputs, outputs in zip((0, 2, 4), widths, widths[1:], strict=False):
        shapes[f"embeddings.{place}.weight"] = (outputs, inputs)
        shapes[f"embeddings.{place}.bias"] = (outputs,)
    return random_state(shapes, seed)


def save_file_of(state: Mapping[str, Tensor], path: Path) -> Path:
    """Save weights as one safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def clip_folder(folder: Path, *, side: int = 32, seed: int = 0) -> Path:
    """A ``CLIPModel`` with its tokenizer and preprocessing."""
    from tiny_pipeline_parts import clip_tokenizer
    from transformers import CLIPConfig, CLIPModel

    tokenizer = clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 8,
    }
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    _save(CLIPModel(config), folder)
    tokenizer.save_pretrained(folder)
    return folder


def clip_for_torchmetrics(folder: Path) -> tuple[Any, Any]:
    """The network and processor as torchmetrics 1.9 calls them, which expects plain tensors."""
    from transformers import AutoTokenizer, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    class Network(CLIPModel):
        def get_image_features(self, pixel_values: Tensor) -> Tensor:
            return self.visual_projection(self.vision_model(pixel_values).pooler_output)

        def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.text_projection(self.text_model(input_ids, attention_mask).pooler_output)

    network = Network.from_pretrained(folder).eval()
    side = network.config.vision_config.image_size
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return network, CLIPProcessor(image_processor=pictures, tokenizer=tokenizer)


def dinov2_folder(folder: Path, seed: int = 0) -> Path:
    """A ``Dinov2Model``."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        patch_size=14,
    )
    return _save(Dinov2Model(config), folder)


def clap_folder(folder: Path, *, fusion: bool = False, seed: int = 0) -> Path:
    """A ``ClapModel`` with its tokenizer and feature extractor."""
    from tiny_pipeline_parts import roberta_tokenizer
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    tokenizer = roberta_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
    }
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "window_size": 4,
        "hidden_size": 32,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1, 1],
        "num_attention_heads": [1, 2, 2],
        "enable_fusion": fusion,
    }
    torch.manual_seed(seed)
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    _save(ClapModel(config), folder)
    tokenizer.save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8000,
        hop_length=80,
        max_length_s=2,
        fft_window_size=256,
        frequency_max=4000,
    ).save_pretrained(folder)
    return folder


def _save(network: Any, folder: Path) -> Path:
    with torch.no_grad():  # so that layers differ visibly: the usual start is near 0
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    network.eval().save_pretrained(folder)
    return folder


def lpips_states(family: str, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of torchvision's layout for AlexNet or VGG-16, and those of lpips for channels."""
    from llmbind_cli.metrics.extractors import lpips

    widths = {
        "alexnet": (64, 192, 384, 256, 256),
        "vgg16": (64, 64, 128, 128, *[256] * 3, *[512] * 6),
    }
    network = lpips.Lpips(family=family, widths=widths[family])
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    convolutions = {key: shape for key, shape in shapes.items() if key.startswith("features.")}
    heads = {key: shape for key, shape in shapes.items() if key.startswith("heads.")}
    channels = {
        f"lin{key.removeprefix('heads.')}.model.1.weight": value.abs()
        for key, value in random_state(heads, seed + 1).items()
    }
    return random_state(convolutions, seed), channels
