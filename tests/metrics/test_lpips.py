"""LPIPS on random weights of the published layout, beside plain torch and beside the package."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tiny_extractors as tiny
import torch
from torch.nn import functional

from llmbind_cli.errors import IntegrityError
from llmbind_cli.metrics.extractors import lpips
from llmbind_cli.metrics.extractors.published import LocatedWeights

CPU = torch.device("cpu")
# Place in torchvision's ``features`` of each convolution, and whether a pooling precedes it.
LAYERS = {
    "alexnet": ({0: False, 3: True, 6: True, 8: False, 10: False}, (0, 3, 6, 8, 10)),
    "vgg16": (
        {n: n in (5, 10, 17, 24) for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)},
        (2, 7, 14, 21, 28),
    ),
}


@pytest.fixture(params=["alexnet", "vgg16"])
def judge(request, tmp_path, monkeypatch):
    return made_judge(request.param, tmp_path, monkeypatch)


def made_judge(family, tmp_path, monkeypatch, channels=None):
    convolutions, heads = tiny.lpips_states(family)
    classifier = {"classifier.1.weight": torch.zeros(2, 2), "classifier.1.bias": torch.zeros(2)}
    folder = tiny.save_file_of(convolutions | classifier, tmp_path / "c" / "m.safetensors").parent
    path = tiny.save_file_of(channels or heads, tmp_path / "h" / "heads.safetensors")
    pin = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(lpips.HEADS, family, (str(path), pin))
    weights = LocatedWeights(name=family, folder=folder, source="here", sha256="1" * 64)
    return lpips.LpipsJudge(weights, device=CPU, offline=True)


def pair(side=64):
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (side, side + 9, 3)).astype(np.uint8)
    second = (first * 0.7 + generator.integers(0, 70, first.shape)).astype(np.uint8)
    return first, second


def literal(family, first, second):
    """Layer by layer from the checkpoint, one picture at a time."""
    state, heads = tiny.lpips_states(family)
    pooled, compared = LAYERS[family]
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    maps = []
    for picture in (first, second):
        pixels = (picture / 127.5 - 1 - shift) / scale
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        found = []
        for index, pool in pooled.items():
            if pool:
                x = functional.max_pool2d(x, 3 if family == "alexnet" else 2, 2)
            kernel = state[f"features.{index}.weight"].shape[-1]
            stride = 4 if kernel == 11 else 1
            padding = {11: 2, 5: 2, 3: 1}[kernel]
            weight, bias = (state[f"features.{index}.{part}"] for part in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, stride, padding).relu()
            if index in compared:
                found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        maps.append(found)
    total = 0.0
    for number, (a, b) in enumerate(zip(*maps, strict=True)):
        weights = heads[f"lin{number}.model.1.weight"]
        total += float(functional.conv2d((a - b) ** 2, weights).mean())
    return total


def test_it_equals_the_literal_formula(judge):
    first, second = pair()
    family = judge.weights.name
    assert judge.distance(first, second) == pytest.approx(literal(family, first, second), rel=1e-4)
    assert judge.distance(first, second) > 0.01
    assert judge.distance(first, first) == 0
    assert judge.card["name"] == f"lpips-{family}"


def test_it_equals_the_package_of_its_authors(tmp_path, monkeypatch):
    reason = "lpips needs a torchvision that loads; neither is a dependency"
    package = pytest.importorskip("lpips", reason=reason, exc_type=(ImportError, RuntimeError))
    judge = made_judge("alexnet", tmp_path, monkeypatch)
    theirs = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    convolutions, heads = tiny.lpips_states("alexnet")
    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    state = theirs.state_dict()
    for key, value in convolutions.items():
        _, index, part = key.split(".")
        state[f"net.slice{slices[index]}.{index}.{part}"] = value
    state |= heads | {key.replace("lin", "lins."): value for key, value in heads.items()}
    theirs.load_state_dict(state)
    batches = [
        torch.from_numpy(side.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for side in pair()
    ]
    with torch.inference_mode():
        expected = float(theirs(*batches))
    assert judge.distance(*pair()) == pytest.approx(expected, rel=1e-5)


def test_a_picture_too_small_is_refused(judge):
    with pytest.raises(ValueError, match="sides of 32 px"):
        judge.distance(*(side[:20] for side in pair()))


def test_channel_weights_of_another_network_are_refused(tmp_path, monkeypatch):
    _, heads = tiny.lpips_states("vgg16")
    with pytest.raises(IntegrityError, match="has other widths than"):
        made_judge("alexnet", tmp_path, monkeypatch, channels=heads)
